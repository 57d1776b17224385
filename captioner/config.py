"""The settings of a model, without torch: they are read by the runtime, by training and by export alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Conditioning = Literal["first_step", "first_word", "initial_state"]
Attention = Literal["none", "soft"]
AnswererKind = Literal["product", "sum", "attention", "question_only", "picture_only", "jabri"]


def at_least(name: str, value: float, limit: float) -> None:
    """Raise ValueError unless value >= limit."""
    if not value >= limit:
        raise ValueError(f"{name} must be at least {limit}, got {value}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the encoder's input: squashed to one size, then normalised inside the encoder's graph.

    The whole photo is squashed rather than centre-cropped: a caption speaks of everything in the picture, and an
    attention map then covers it edge to edge.
    """

    height: int = 224
    """Pixels."""
    width: int = 224
    """Pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green and blue in [0, 1]; subtracted."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Of red, green and blue in [0, 1]; divided by."""

    def __post_init__(self) -> None:
        between("height", self.height, 16, 2048)
        between("width", self.width, 16, 2048)
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean and std must have 3 values each, got {self.mean} and {self.std}")
        at_least("std", min(self.std), 1e-6)


@dataclass(frozen=True)
class AnswererConfig:
    """Everything that decides the shape of a network that answers questions; equations in captioner.model.answerer."""

    kind: AnswererKind = "attention"
    """How picture and question meet."""
    embed_size: int = 300
    """Length of a word vector."""
    hidden_size: int = 512
    """Units of each LSTM layer that reads the question."""
    layers: int = 2
    """Stacked LSTM layers."""
    fusion_size: int = 1024
    """Units of the layer where picture and question meet."""
    attention_size: int = 256
    """Units of the hidden layer that scores a grid cell; only with attention."""
    hops: int = 2
    """How often the grid is looked at; only with attention."""
    whole: bool = True
    """Whether the mean of the grid speaks beside what was looked at; only with attention."""
    positions: bool = False
    """Whether each grid cell has a learned vector added to its features; only with attention."""
    history: bool = False
    """Whether the questions and answers before are read too (visual dialog)."""
    dropout: float = 0.5
    """Share of units dropped in training: of word vectors, the picture and the layer before the answers."""

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(AnswererKind))
        for name in ("embed_size", "hidden_size", "layers", "fusion_size", "attention_size", "hops"):
            at_least(name, getattr(self, name), 1)
        between("dropout", self.dropout, 0.0, 0.95)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape of an encoder and of what speaks about its grid."""

    encoder: str = "mobilenet_v2"
    """A name in captioner.model.encoder.BACKBONES."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Travels with the encoder."""
    encoder_stage: str | None = None
    """The last stage of the encoder that is kept, by its name in torchvision; None: the last before pooling."""
    conditioning: Conditioning = "first_step"
    """How the picture starts the decoder; equations in captioner.model.decoder."""
    attention: Attention = "none"
    """Whether each word looks at the grid again (Xu et al., 2015)."""
    hidden_size: int = 512
    """Units of each LSTM layer."""
    embed_size: int = 512
    """Length of a word vector."""
    feature_size: int = 512
    """Channels of a grid cell after the projection that all captions of a picture share."""
    attention_size: int = 256
    """Units of the hidden layer that scores a grid cell; only with attention."""
    positions: bool = False
    """Whether each grid cell has a learned vector added to its features, so that the decoder knows where it is."""
    layers: int = 1
    """Stacked LSTM layers."""
    dropout: float = 0.5
    """Share of units dropped in training: of the projected features, the word vectors and the output layer."""
    tied_words: bool = True
    """Whether the output layer's word vectors are the input's (Press and Wolf, 2017)."""
    captions: bool = True
    """Whether there is a decoder; the settings from conditioning to here, the encoder's apart, are its own."""
    answerer: AnswererConfig | None = None
    """The network that answers questions, if there is one."""

    def __post_init__(self) -> None:
        one_of("conditioning", self.conditioning, get_args(Conditioning))
        one_of("attention", self.attention, get_args(Attention))
        for name in ("hidden_size", "embed_size", "feature_size", "attention_size", "layers"):
            at_least(name, getattr(self, name), 1)
        between("dropout", self.dropout, 0.0, 0.95)
        if not self.captions and self.answerer is None:
            raise ValueError("a model must write captions or have an answerer, got neither")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read what to_dict wrote; an unknown name is a ValueError."""
        try:
            answerer = None if values.get("answerer") is None else AnswererConfig(**values["answerer"])
            preprocessing = Preprocessing(**values["preprocessing"])
            return cls(**{**values, "preprocessing": preprocessing, "answerer": answerer})
        except (KeyError, TypeError) as e:
            raise ValueError(f"not a model's settings: {e}") from e

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SearchOptions:
    """How captions are looked for. The length rule ranks a hypothesis by log p(words) / length ** length_power."""

    beam_size: int = 7
    """How many hypotheses the search keeps, in [1, 20]; 1 is greedy search."""
    max_words: int = 20
    """Longest caption in words, in [1, 50]; longer ones are cut there."""
    captions: int = 1
    """How many of the best to return, in [1, beam_size]."""
    length_power: float = 0.0
    """0 ranks by the plain sum, 1 by the mean per word (the end counts as a word), in [0, 2]."""

    def __post_init__(self) -> None:
        between("beam_size", self.beam_size, 1, 20)
        between("max_words", self.max_words, 1, 50)
        between("captions", self.captions, 1, self.beam_size)
        between("length_power", self.length_power, 0.0, 2.0)
