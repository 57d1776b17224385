"""The command line: `captioner caption PHOTO...`, `captioner answer PHOTO... --question TEXT`, `captioner info`.

captioner.cli_sharing has `save`, `push` and `fetch`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.bundle import VARIABLE, BundleError
from captioner.captioner import Captioner
from captioner.cli_models import Local, Model, Remote, ServerError, connect
from captioner.cli_output import complain, figure_paths, reason, show_answered, show_captions, show_facts
from captioner.cli_sharing import add_sharing
from captioner.engine import PROVIDERS, EngineError
from captioner.figure import answer_figure, attention_figure
from captioner.images import BadImage, read_photo
from captioner.sharing import HubError

HERE = {"bundle": None, "precision": None, "threads": None, "provider": "cpu", "require_gpu": False}
"""Options of a model in this process, and what they are if not given."""
THERE = {"model": "", "timeout": 10.0, "token_file": None, "tls": False}
THERE |= dict.fromkeys(("tls_ca", "tls_certificate", "tls_key"))
"""The same of a server."""

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 all well, 1 some photo failed, 2 nothing could be done."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except BrokenPipeError:  # the reader has gone, as head does: nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BundleError, EngineError, HubError, ServerError, ValueError) as e:
        return complain(str(e), status=2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="captioner", description="Captions and answers for photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    caption = commands.add_parser("caption", help="write captions for photos")
    caption.set_defaults(run=_caption)
    caption.add_argument(
        "--beam-size", type=int, metavar="K", help="hypotheses that the search keeps, 1 to 20 (the model's)"
    )
    caption.add_argument("--max-words", type=int, metavar="N", help="longest caption, 1 to 50 words (the model's)")
    caption.add_argument("--captions", type=int, metavar="N", help="captions for each photo (3)")
    caption.add_argument(
        "--length-power",
        type=float,
        metavar="A",
        help="rank by log p / length ** A, 0 to 2: more favours longer ones (the model's)",
    )

    answer = commands.add_parser("answer", help="answer a question about photos")
    answer.set_defaults(run=_answer)
    answer.add_argument("--question", required=True, metavar="TEXT", help="in English, at most 50 words")
    answer.add_argument("--top", type=int, default=5, metavar="N", help="answers for each photo, 1 to 20 (5)")
    answer.add_argument(
        "--history", nargs=2, action="append", default=[], metavar=("Q", "A"), help="a question before, and its answer"
    )
    answer.add_argument(
        "--candidate", action="append", default=[], metavar="TEXT", help="an answer to choose from (all it knows)"
    )
    for command in (caption, answer):
        command.add_argument("photos", nargs="+", metavar="PHOTO", help="a JPEG, PNG, WebP or GIF file")
        command.add_argument(
            "--attention", type=Path, metavar="OUT", help="draw where the model looked: a .png, or a folder for several"
        )
        command.add_argument("--json", action="store_true", help="one JSON object per photo and line")

    info = commands.add_parser("info", help="say what is in a bundle")
    info.set_defaults(run=_info)
    for command in (caption, answer, info):
        here = command.add_argument_group("a model in this process")
        here.add_argument("--bundle", type=Path, metavar="BUNDLE", help=f"a folder or .zip (${VARIABLE}, else the box)")
        here.add_argument("--precision", choices=("int8", "fp32"), help="which graphs to run (int8 if there)")
        here.add_argument("--threads", type=int, metavar="N", help="of the engine (one for each core)")
        here.add_argument("--provider", choices=tuple(PROVIDERS), default="cpu", help="what runs the model (cpu)")
        here.add_argument("--require-gpu", action="store_true", help="fail rather than fall back to the CPU")
    for command in (caption, answer):
        there = command.add_argument_group("a server instead")
        there.add_argument("--server", metavar="HOST:PORT", help="ask it; several, split by commas, take turns")
        there.add_argument("--model", default="", metavar="NAME", help="of its models (the default one)")
        there.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for each photo (10)")
        there.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that it asks for")
        there.add_argument("--tls", action="store_true", help="encrypt; any known authority may vouch for it")
        there.add_argument("--tls-ca", type=Path, metavar="FILE", help="encrypt; only these authorities may (PEM)")
        there.add_argument("--tls-certificate", type=Path, metavar="FILE", help="our own, if it asks for one (PEM)")
        there.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    add_sharing(commands)
    return parser


def _load(options: argparse.Namespace) -> Captioner:
    return Captioner.load(options.bundle, options.precision, options.threads, options.provider, options.require_gpu)


@contextmanager
def _model(options: argparse.Namespace) -> Iterator[Model]:
    for name, usual in (HERE if options.server else THERE).items():
        if getattr(options, name) != usual:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} has no meaning {'with' if options.server else 'without'} --server")
    if options.attention is not None and len(options.photos) > 1 and options.attention.suffix.lower() == ".png":
        raise ValueError(f"--attention must be a folder for {len(options.photos)} photos, got {options.attention}")
    if not options.server:
        yield Local(_load(options))
        return
    with connect(options.server, **{name: getattr(options, name) for name in THERE if name != "model"}) as client:
        yield Remote(client, options.model)


def _caption(options: argparse.Namespace) -> int:
    search = {name: getattr(options, name) for name in ("beam_size", "max_words", "captions", "length_power")}
    with _model(options) as model:
        return _each(
            options,
            model,
            draws=lambda: model.draws_captions,
            find=lambda attention: model.captions(options.photos, search, attention),
            show=lambda photo, captions: show_captions(photo, captions, options.json),
            draw=lambda photo_HW3, captions: attention_figure(photo_HW3, captions[0]) if captions else None,
        )


def _answer(options: argparse.Namespace) -> int:
    question = options.question
    history = tuple((asked, answer) for asked, answer in options.history)
    query = {"top": options.top, "history": history, "candidates": tuple(options.candidate)}
    with _model(options) as model:
        return _each(
            options,
            model,
            draws=lambda: model.draws_answers,
            find=lambda attention: model.answers(options.photos, question, query, attention),
            show=lambda photo, answered: show_answered(photo, question, answered, options.json),
            draw=lambda photo_HW3, answered: answer_figure(photo_HW3, question, answered),
        )


def _each(
    options: argparse.Namespace,
    model: Model,
    draws: Callable[[], bool],
    find: Callable[[bool], Iterator[T | Exception]],
    show: Callable[[str, T], None],
    draw: Callable[[NDArray[np.uint8], T], Image.Image | None],
) -> int:
    """Show, and draw if asked to, what is found for each photo."""
    out: Path | None = options.attention
    photos: list[str] = options.photos
    status = 0
    if out is not None and not draws():
        status = complain(f"--attention: the model {model.name} has no attention to draw")
        out = None
    figures: Sequence[Path | None] = [None] * len(photos) if out is None else figure_paths(photos, out)
    found = find(options.json or out is not None)
    for photo, figure, one in zip(photos, figures, found, strict=True):
        if isinstance(one, Exception):
            status = complain(f"{photo}: {reason(one)}")
            continue
        show(photo, one)
        if figure is not None:
            try:
                if (drawn := draw(read_photo(photo), one)) is not None:
                    figure.parent.mkdir(parents=True, exist_ok=True)
                    drawn.save(figure)
            except (BadImage, OSError) as e:
                status = complain(f"{figure}: {reason(e)}")
    return status


def _info(options: argparse.Namespace) -> int:
    show_facts(_load(options))
    return 0
