import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CaptionImageRequest(_message.Message):
    __slots__ = ("image", "model", "beam_size", "max_words", "captions", "length_power", "include_attention")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_POWER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    beam_size: int
    max_words: int
    captions: int
    length_power: float
    include_attention: bool
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., beam_size: _Optional[int] = ..., max_words: _Optional[int] = ..., captions: _Optional[int] = ..., length_power: _Optional[float] = ..., include_attention: bool = ...) -> None: ...

class CaptionImageResponse(_message.Message):
    __slots__ = ("captions", "model", "model_version", "stage_durations")
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_DURATIONS_FIELD_NUMBER: _ClassVar[int]
    captions: _containers.RepeatedCompositeFieldContainer[Caption]
    model: str
    model_version: str
    stage_durations: StageDurations
    def __init__(self, captions: _Optional[_Iterable[_Union[Caption, _Mapping]]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., stage_durations: _Optional[_Union[StageDurations, _Mapping]] = ...) -> None: ...

class Caption(_message.Message):
    __slots__ = ("text", "log_prob", "score", "words")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    log_prob: float
    score: float
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, text: _Optional[str] = ..., log_prob: _Optional[float] = ..., score: _Optional[float] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "log_prob", "attention")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    text: str
    log_prob: float
    attention: AttentionMap
    def __init__(self, text: _Optional[str] = ..., log_prob: _Optional[float] = ..., attention: _Optional[_Union[AttentionMap, _Mapping]] = ...) -> None: ...

class AttentionMap(_message.Message):
    __slots__ = ("rows", "columns", "weights")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...

class StageDurations(_message.Message):
    __slots__ = ("decode", "encode", "search")
    DECODE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    decode: _duration_pb2.Duration
    encode: _duration_pb2.Duration
    search: _duration_pb2.Duration
    def __init__(self, decode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., encode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., search: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "precision", "provider", "vocabulary_size", "has_attention", "search_defaults", "search_maxima", "image_limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    HAS_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    SEARCH_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MAXIMA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    precision: str
    provider: str
    vocabulary_size: int
    has_attention: bool
    search_defaults: SearchOptions
    search_maxima: SearchOptions
    image_limits: ImageLimits
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., precision: _Optional[str] = ..., provider: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., has_attention: bool = ..., search_defaults: _Optional[_Union[SearchOptions, _Mapping]] = ..., search_maxima: _Optional[_Union[SearchOptions, _Mapping]] = ..., image_limits: _Optional[_Union[ImageLimits, _Mapping]] = ...) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("beam_size", "max_words", "captions", "length_power")
    BEAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_POWER_FIELD_NUMBER: _ClassVar[int]
    beam_size: int
    max_words: int
    captions: int
    length_power: float
    def __init__(self, beam_size: _Optional[int] = ..., max_words: _Optional[int] = ..., captions: _Optional[int] = ..., length_power: _Optional[float] = ...) -> None: ...

class ImageLimits(_message.Message):
    __slots__ = ("max_bytes", "max_pixels", "min_side", "max_side", "max_aspect")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_ASPECT_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    max_pixels: int
    min_side: int
    max_side: int
    max_aspect: float
    def __init__(self, max_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., max_aspect: _Optional[float] = ...) -> None: ...
