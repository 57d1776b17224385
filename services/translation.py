"""Between the messages of proto/captioner/v1 and the library's own types."""

from __future__ import annotations

import numpy as np
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from captioner import Bundle, Caption, Captioner, SearchOptions, Word
from captioner.query import QUESTION_LIMITS, Query
from captioner.results import Answer
from captioner.v1 import captioner_pb2 as pb
from captioner.vocabulary import MARKS
from services.engine import Outcome
from services.errors import OptionsError, UnavailableError

# The ends of the ranges that SearchOptions checks; a test compares them.
MAXIMA = SearchOptions(beam_size=20, max_words=50, captions=20, length_power=2.0)
ID_BYTES = 128
"""Of a picture in a stream."""
TOP = 5
"""Answers, unless said otherwise."""

Picture = pb.CaptionImageRequest | pb.DrawAttentionRequest


def search_options(request: Picture, captioner: Captioner) -> SearchOptions:
    """The request's options, the model's where it sets none; OptionsError names every bad field."""
    check_captions(captioner.bundle)
    if isinstance(request, pb.DrawAttentionRequest) or request.include_attention:
        _check_attention(captioner.bundle.name, captioner.bundle.model.attention != "none")
    names = [name for name in ("beam_size", "max_words", "captions", "length_power") if _has(request, name)]
    given = {name: getattr(request, name) for name in names}
    beams, violations = given.get("beam_size"), {}
    for name, value in given.items():
        try:
            captioner.options(**{"beam_size": beams, name: value})
        except ValueError as error:
            violations[name] = str(error)
            if name == "beam_size":
                beams = MAXIMA.beam_size  # what captions is held against instead
    if violations:
        raise OptionsError(violations)
    if isinstance(request, pb.DrawAttentionRequest):
        given["captions"] = 1
    return captioner.options(**given)


def check_captions(bundle: Bundle) -> None:
    """Raise UnavailableError unless the model writes captions."""
    if not bundle.model.captions:
        raise UnavailableError("CAPTIONS_UNAVAILABLE", f"model {bundle.name!r} answers questions only")


def query(request: pb.AnswerQuestionRequest | pb.DrawAttentionRequest, captioner: Captioner) -> Query:
    """The question; BadQuestion where it cannot be asked of anyone, or of this model."""
    if captioner.bundle.model.answerer is None:
        raise UnavailableError("ANSWERS_UNAVAILABLE", f"model {captioner.bundle.name!r} writes captions only")
    if isinstance(request, pb.DrawAttentionRequest):
        _check_attention(captioner.bundle.name, has_answer_attention(captioner.bundle))
        asked = Query(request.question)
    else:
        if request.include_attention:
            _check_attention(captioner.bundle.name, has_answer_attention(captioner.bundle))
        asked = Query(
            request.question,
            request.top if request.HasField("top") else TOP,
            tuple((exchange.question, exchange.answer) for exchange in request.history),
            tuple(request.candidates),
        )
    captioner.check_query(asked)
    return asked


def has_answer_attention(bundle: Bundle) -> bool:
    """Whether the model says where it looked for an answer."""
    return bundle.model.answerer is not None and bundle.model.answerer.kind == "attention"


def check_id(request: pb.StreamCaptionImagesRequest) -> None:
    """Raise OptionsError unless a picture of a stream has a name of an allowed length."""
    size = len(request.id.encode())
    if not 1 <= size <= ID_BYTES:
        raise OptionsError({"id": f"id must have [1, {ID_BYTES}] bytes, got {size}"})


def short_id(name: str) -> str:
    """As much of it as is allowed."""
    return name.encode()[:ID_BYTES].decode(errors="ignore")


def caption_response(outcome: Outcome, bundle: Bundle, include_attention: bool) -> pb.CaptionImageResponse:
    """The answer to one CaptionImage."""
    return pb.CaptionImageResponse(
        captions=[caption(found, include_attention) for found in outcome.captions or ()],
        model=bundle.name,
        model_version=bundle.version,
        stage_durations=_durations(outcome),
    )


def answer_response(outcome: Outcome, bundle: Bundle, include_attention: bool) -> pb.AnswerQuestionResponse:
    """The answer to one AnswerQuestion."""
    answered = outcome.answered
    assert answered is not None
    return pb.AnswerQuestionResponse(
        answers=[answer(found) for found in answered.answers],
        unknown_words=answered.unknown_words,
        unknown_candidates=answered.unknown_candidates,
        attention=_attention(answered.attention) if include_attention else None,
        model=bundle.name,
        model_version=bundle.version,
        stage_durations=_durations(outcome),
    )


def draw_response(png: bytes, outcome: Outcome, bundle: Bundle) -> pb.DrawAttentionResponse:
    """The answer to one DrawAttention."""
    shown = outcome.captions
    return pb.DrawAttentionResponse(
        png=png,
        caption=caption(shown[0], True) if shown else None,
        answer=answer(outcome.answered.answers[0]) if outcome.answered else None,
        model=bundle.name,
        model_version=bundle.version,
        stage_durations=_durations(outcome),
    )


def model(captioner: Captioner) -> pb.Model:
    """The description of a served model."""
    bundle, limits = captioner.bundle, captioner.limits
    settings, answerer = bundle.model, bundle.model.answerer
    return pb.Model(
        name=bundle.name,
        version=bundle.version,
        precision=captioner.precision,
        provider=captioner.provider,
        vocabulary_size=len(bundle.vocabulary) - len(MARKS),
        has_attention=settings.captions and settings.attention != "none",
        search_defaults=_options(captioner.options()),
        search_maxima=_options(MAXIMA),
        image_limits=pb.ImageLimits(
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            min_side=limits.min_side,
            max_side=limits.max_side,
            max_aspect=limits.max_aspect,
            max_scans=limits.max_scans,
        ),
        writes_captions=settings.captions,
        answers_questions=answerer is not None,
        answer_count=len(bundle.answers),
        has_answer_attention=has_answer_attention(bundle),
        accepts_history=answerer is not None and answerer.history,
        question_limits=pb.QuestionLimits(**vars(QUESTION_LIMITS)) if answerer is not None else None,
    )


def caption(found: Caption, include_attention: bool) -> pb.Caption:
    """One caption."""
    return pb.Caption(
        text=found.text,
        log_prob=found.log_prob,
        score=found.score,
        words=[_word(word, include_attention) for word in found.words],
    )


def answer(found: Answer) -> pb.Answer:
    """One answer."""
    return pb.Answer(text=found.text, probability=found.probability)


def _has(request: Picture, name: str) -> bool:
    return name in request.DESCRIPTOR.fields_by_name and request.HasField(name)


def _check_attention(name: str, has: bool) -> None:
    if not has:
        raise UnavailableError("ATTENTION_UNAVAILABLE", f"model {name!r} has no attention for this")


def _word(word: Word, include_attention: bool) -> pb.Word:
    attention = _attention(word.attention) if include_attention else None
    return pb.Word(text=word.text, log_prob=word.log_prob, attention=attention)


def _attention(map_RC: NDArray[np.float32] | None) -> pb.AttentionMap | None:
    if map_RC is None:
        return None
    rows, columns = map_RC.shape
    return pb.AttentionMap(rows=rows, columns=columns, weights=map_RC.ravel().tolist())


def _options(options: SearchOptions) -> pb.SearchOptions:
    return pb.SearchOptions(
        beam_size=options.beam_size,
        max_words=options.max_words,
        captions=options.captions,
        length_power=options.length_power,
    )


def _durations(outcome: Outcome) -> pb.StageDurations:
    return pb.StageDurations(
        decode=_duration(outcome.decode_seconds),
        encode=_duration(outcome.encode_seconds),
        search=_duration(outcome.search_seconds),
        queue=_duration(outcome.queue_seconds),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(1e9 * seconds))
    return duration
