import datetime

from google.protobuf import any_pb2 as _any_pb2
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
    __slots__ = ("decode", "encode", "search", "queue")
    DECODE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    decode: _duration_pb2.Duration
    encode: _duration_pb2.Duration
    search: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    def __init__(self, decode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., encode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., search: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AnswerQuestionRequest(_message.Message):
    __slots__ = ("image", "model", "question", "top", "history", "candidates", "include_attention")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    question: str
    top: int
    history: _containers.RepeatedCompositeFieldContainer[Exchange]
    candidates: _containers.RepeatedScalarFieldContainer[str]
    include_attention: bool
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., question: _Optional[str] = ..., top: _Optional[int] = ..., history: _Optional[_Iterable[_Union[Exchange, _Mapping]]] = ..., candidates: _Optional[_Iterable[str]] = ..., include_attention: bool = ...) -> None: ...

class Exchange(_message.Message):
    __slots__ = ("question", "answer")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    question: str
    answer: str
    def __init__(self, question: _Optional[str] = ..., answer: _Optional[str] = ...) -> None: ...

class AnswerQuestionResponse(_message.Message):
    __slots__ = ("answers", "unknown_words", "unknown_candidates", "attention", "model", "model_version", "stage_durations")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_WORDS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_DURATIONS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    unknown_words: _containers.RepeatedScalarFieldContainer[str]
    unknown_candidates: _containers.RepeatedScalarFieldContainer[str]
    attention: AttentionMap
    model: str
    model_version: str
    stage_durations: StageDurations
    def __init__(self, answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., unknown_words: _Optional[_Iterable[str]] = ..., unknown_candidates: _Optional[_Iterable[str]] = ..., attention: _Optional[_Union[AttentionMap, _Mapping]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., stage_durations: _Optional[_Union[StageDurations, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("text", "probability")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    probability: float
    def __init__(self, text: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class StreamCaptionImagesRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: CaptionImageRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[CaptionImageRequest, _Mapping]] = ...) -> None: ...

class StreamCaptionImagesResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: CaptionImageResponse
    error: PictureError
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[CaptionImageResponse, _Mapping]] = ..., error: _Optional[_Union[PictureError, _Mapping]] = ...) -> None: ...

class PictureError(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class DrawAttentionRequest(_message.Message):
    __slots__ = ("image", "model", "beam_size", "max_words", "length_power", "question")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_POWER_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    beam_size: int
    max_words: int
    length_power: float
    question: str
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., beam_size: _Optional[int] = ..., max_words: _Optional[int] = ..., length_power: _Optional[float] = ..., question: _Optional[str] = ...) -> None: ...

class DrawAttentionResponse(_message.Message):
    __slots__ = ("png", "caption", "answer", "model", "model_version", "stage_durations")
    PNG_FIELD_NUMBER: _ClassVar[int]
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_DURATIONS_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    caption: Caption
    answer: Answer
    model: str
    model_version: str
    stage_durations: StageDurations
    def __init__(self, png: _Optional[bytes] = ..., caption: _Optional[_Union[Caption, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., stage_durations: _Optional[_Union[StageDurations, _Mapping]] = ...) -> None: ...

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

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "precision", "provider", "vocabulary_size", "has_attention", "search_defaults", "search_maxima", "image_limits", "writes_captions", "answers_questions", "answer_count", "has_answer_attention", "accepts_history", "question_limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    HAS_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    SEARCH_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MAXIMA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    WRITES_CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_COUNT_FIELD_NUMBER: _ClassVar[int]
    HAS_ANSWER_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_HISTORY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    precision: str
    provider: str
    vocabulary_size: int
    has_attention: bool
    search_defaults: SearchOptions
    search_maxima: SearchOptions
    image_limits: ImageLimits
    writes_captions: bool
    answers_questions: bool
    answer_count: int
    has_answer_attention: bool
    accepts_history: bool
    question_limits: QuestionLimits
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., precision: _Optional[str] = ..., provider: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., has_attention: bool = ..., search_defaults: _Optional[_Union[SearchOptions, _Mapping]] = ..., search_maxima: _Optional[_Union[SearchOptions, _Mapping]] = ..., image_limits: _Optional[_Union[ImageLimits, _Mapping]] = ..., writes_captions: bool = ..., answers_questions: bool = ..., answer_count: _Optional[int] = ..., has_answer_attention: bool = ..., accepts_history: bool = ..., question_limits: _Optional[_Union[QuestionLimits, _Mapping]] = ...) -> None: ...

class QuestionLimits(_message.Message):
    __slots__ = ("max_characters", "max_words", "max_candidates", "max_history", "max_top")
    MAX_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_HISTORY_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_FIELD_NUMBER: _ClassVar[int]
    max_characters: int
    max_words: int
    max_candidates: int
    max_history: int
    max_top: int
    def __init__(self, max_characters: _Optional[int] = ..., max_words: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_history: _Optional[int] = ..., max_top: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("max_bytes", "max_pixels", "min_side", "max_side", "max_aspect", "max_scans")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_ASPECT_FIELD_NUMBER: _ClassVar[int]
    MAX_SCANS_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    max_pixels: int
    min_side: int
    max_side: int
    max_aspect: float
    max_scans: int
    def __init__(self, max_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., max_aspect: _Optional[float] = ..., max_scans: _Optional[int] = ...) -> None: ...
