"""Who answers the command line: a bundle in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from captioner.captioner import Captioner
from captioner.engine import EngineError
from captioner.images import BadImage
from captioner.query import Query
from captioner.results import Answered, Caption

if TYPE_CHECKING:  # only --server needs gRPC
    from captioner.client import Client, ClientError, ServedModel

T = TypeVar("T")
SPARES_OTHERS = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL")
"""Codes of a failure after which the next photo is worth a try."""


class ServerError(RuntimeError):
    """A server did not answer."""


class Model(Protocol):
    """Answers for photos, in their order; for one that fails the exception. Raises where no photo is at fault."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def draws_captions(self) -> bool:
        """Whether captions come with attention."""

    @property
    def draws_answers(self) -> bool:
        """Whether answers come with attention."""

    def captions(
        self, photos: Sequence[str], options: Mapping[str, Any], attention: bool
    ) -> Iterator[Sequence[Caption] | Exception]:
        """options: of Captioner.caption."""

    def answers(
        self, photos: Sequence[str], question: str, options: Mapping[str, Any], attention: bool
    ) -> Iterator[Answered | Exception]:
        """options: of Captioner.answer."""


class Local:
    """A bundle in this process."""

    def __init__(self, captioner: Captioner):
        self._captioner = captioner
        model = captioner.bundle.model
        self.name = captioner.bundle.name
        self.draws_captions = model.attention != "none"
        self.draws_answers = model.answerer is not None and model.answerer.kind == "attention"

    def captions(
        self, photos: Sequence[str], options: Mapping[str, Any], attention: bool
    ) -> Iterator[Sequence[Caption] | Exception]:
        """See Model."""
        search = self._captioner.options(**options)
        for photo in photos:
            try:
                yield self._captioner.caption_batch([photo], search)[0]
            except (BadImage, OSError) as e:
                yield e

    def answers(
        self, photos: Sequence[str], question: str, options: Mapping[str, Any], attention: bool
    ) -> Iterator[Answered | Exception]:
        """See Model."""
        self._captioner.check_query(Query(question, **options))
        for photo in photos:
            try:
                yield self._captioner.answer(photo, question, **options)
            except (BadImage, OSError) as e:
                yield e


class Remote:
    """A model that a server has."""

    def __init__(self, client: Client, model: str):
        self._client, self._model = client, model

    @property
    def name(self) -> str:
        """See Model."""
        return self._served.name

    @property
    def draws_captions(self) -> bool:
        """See Model."""
        return self._served.has_attention

    @property
    def draws_answers(self) -> bool:
        """See Model."""
        return self._served.has_answer_attention

    @cached_property
    def _served(self) -> ServedModel:
        from captioner.client import ClientError

        try:
            return self._client.model(self._model)
        except ClientError as e:
            raise self._error(e) from e

    def captions(
        self, photos: Sequence[str], options: Mapping[str, Any], attention: bool
    ) -> Iterator[Sequence[Caption] | Exception]:
        """See Model."""
        attention = attention and self.draws_captions
        for found in _in_order(self._client.caption_many(photos, model=self._model, attention=attention, **options)):
            yield self._blamed(found) if isinstance(found, Exception) else found

    def answers(
        self, photos: Sequence[str], question: str, options: Mapping[str, Any], attention: bool
    ) -> Iterator[Answered | Exception]:
        """See Model."""
        from captioner.client import ClientError

        attention = attention and self.draws_answers
        for photo in photos:
            try:
                yield self._client.answer(photo, question, model=self._model, attention=attention, **options)
            except (ClientError, OSError) as e:
                yield self._blamed(e)

    def _blamed(self, error: ClientError | OSError) -> Exception:
        """The error, if it is about one photo alone; raises it otherwise."""
        if isinstance(error, OSError):
            return error
        if "image" in error.violations:
            return BadImage(error.reason, error.message)  # type: ignore[arg-type] # a newer server may have more
        if error.code.name in SPARES_OTHERS:
            return self._error(error)
        raise self._error(error) from error

    def _error(self, error: ClientError) -> ServerError:
        return ServerError(f"{self._client.connection.target}: {error.message if error.reason else error}")


def connect(
    target: str,
    timeout: float,
    token_file: Path | None,
    tls: bool,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
) -> Client:
    """A client; raises EngineError without gRPC, ValueError for a file or an option that cannot be used."""
    try:
        from captioner.client import Client, Tls
    except ModuleNotFoundError as e:
        raise EngineError(f"--server needs gRPC: install captioner[serve] ({e})") from e
    wanted = tls or tls_ca is not None or tls_certificate is not None or tls_key is not None
    try:
        return Client(
            target,
            timeout,
            retry_when_full=True,
            tls=Tls(tls_ca, tls_certificate, tls_key) if wanted else None,
            token=None if token_file is None else token_file.read_text(encoding="utf-8").strip(),
        )
    except OSError as e:
        raise ValueError(f"{e.filename}: {e.strerror}") from e


def _in_order(found: Iterator[tuple[int, T]]) -> Iterator[T]:
    """What comes with places from 0, in their order."""
    early: dict[int, T] = {}
    due = 0
    for place, one in found:
        early[place] = one
        while due in early:
            yield early.pop(due)
            due += 1
