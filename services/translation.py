"""Between the messages of proto/captioner/v1 and the library's own types."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from captioner import Bundle, Caption, Captioner, SearchOptions, Word
from captioner.v1 import captioner_pb2 as pb
from captioner.vocabulary import MARKS
from services.errors import AttentionUnavailableError, OptionsError, UnknownModelError
from services.worker import Outcome

# The ends of the ranges that SearchOptions checks; a test compares them.
MAXIMA = SearchOptions(beam_size=20, max_words=50, captions=20, length_power=2.0)


def check_model(name: str, bundle: Bundle) -> None:
    """Raise UnknownModelError unless the name is empty or the bundle's."""
    if name and name != bundle.name:
        raise UnknownModelError(f"no model {name[:64]!r} here, only {bundle.name!r}")


def search_options(request: pb.CaptionImageRequest, captioner: Captioner) -> SearchOptions:
    """The request's options, the model's where it sets none; OptionsError names every bad field."""
    if request.include_attention and captioner.bundle.model.attention == "none":
        raise AttentionUnavailableError(f"model {captioner.bundle.name!r} has no attention; unset include_attention")
    names = ("beam_size", "max_words", "captions", "length_power")
    given = {name: getattr(request, name) for name in names if request.HasField(name)}
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
    return captioner.options(**given)


def caption_response(outcome: Outcome, bundle: Bundle, include_attention: bool) -> pb.CaptionImageResponse:
    """The answer to one CaptionImage."""
    return pb.CaptionImageResponse(
        captions=[_caption(caption, include_attention) for caption in outcome.captions],
        model=bundle.name,
        model_version=bundle.version,
        stage_durations=pb.StageDurations(
            decode=_duration(outcome.decode_seconds),
            encode=_duration(outcome.encode_seconds),
            search=_duration(outcome.search_seconds),
        ),
    )


def model(captioner: Captioner) -> pb.Model:
    """The description of a served model."""
    limits = captioner.limits
    return pb.Model(
        name=captioner.bundle.name,
        version=captioner.bundle.version,
        precision=captioner.precision,
        provider=captioner.provider,
        vocabulary_size=len(captioner.bundle.vocabulary) - len(MARKS),
        has_attention=captioner.bundle.model.attention != "none",
        search_defaults=_options(captioner.options()),
        search_maxima=_options(MAXIMA),
        image_limits=pb.ImageLimits(
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            min_side=limits.min_side,
            max_side=limits.max_side,
            max_aspect=limits.max_aspect,
        ),
    )


def _caption(caption: Caption, include_attention: bool) -> pb.Caption:
    return pb.Caption(
        text=caption.text,
        log_prob=caption.log_prob,
        score=caption.score,
        words=[_word(word, include_attention) for word in caption.words],
    )


def _word(word: Word, include_attention: bool) -> pb.Word:
    message = pb.Word(text=word.text, log_prob=word.log_prob)
    if include_attention and word.attention is not None:
        rows, columns = word.attention.shape
        weights = word.attention.ravel().tolist()
        message.attention.CopyFrom(pb.AttentionMap(rows=rows, columns=columns, weights=weights))
    return message


def _options(options: SearchOptions) -> pb.SearchOptions:
    return pb.SearchOptions(
        beam_size=options.beam_size,
        max_words=options.max_words,
        captions=options.captions,
        length_power=options.length_power,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(1e9 * seconds))
    return duration
