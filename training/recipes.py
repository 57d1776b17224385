"""Every run that the project ships: a function with a name. A variant is `replace(...)` of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from captioner.config import ModelConfig, SearchOptions, at_least, between, one_of
from captioner.model.encoder import preprocessing_of
from eval.metrics import METRICS


@dataclass(frozen=True)
class CaptionFiles:
    """A COCO-format split, relative to the folder given with --data."""

    annotations: str
    pictures: str
    """Folder of the pictures."""
    split: str | None = None
    """Only for Karpathy's one file of all splits, such as "train+restval"."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, but where things lie and on which device."""

    model: ModelConfig
    train: CaptionFiles
    validation: CaptionFiles
    epochs: int
    min_count: int = 5
    """Words seen less often become <unk>."""
    longest: int = 30
    """Words of a training caption; the rest is cut."""
    views: int = 1
    """Augmented views of each training picture (training.views); one is drawn each epoch."""
    batch_pictures: int = 64
    """Pictures in a batch of all processes together, each with all its captions."""
    learning_rate: float = 1e-3
    """Highest, after the warm-up; AdamW (Loshchilov and Hutter, 2019), falling to 0 as a cosine."""
    weight_decay: float = 0.01
    """Of matrices; biases and norms have none."""
    warmup_steps: int = 200
    label_smoothing: float = 0.1
    """Share of probability spread over all words (Szegedy et al., 2016)."""
    doubly_stochastic: float = 0.1
    """Weight lambda of sum_p (1 - sum_t alpha_tp)^2 in a caption's loss (Xu et al., 2015, equation 14)."""
    clip_norm: float | None = 5.0
    """Largest L2 norm of all gradients together; above it they are scaled down."""
    clip_value: float | None = None
    """Largest absolute value of a gradient's element; above it the element is cut."""
    average_decay: float = 0.999
    """Of the moving average of the weights that is validated and kept (Polyak and Juditsky, 1992); 0: none."""
    fine_tune: str | None = None
    """First encoder stage that trains ("all": the whole encoder); None: frozen, its features are computed once."""
    encoder_learning_rate: float = 1e-4
    """Highest, of the encoder."""
    self_critical_epochs: int = 0
    """Epochs after `epochs`, from the best weights of those, that raise the scores of samples (training.reward)."""
    self_critical_learning_rate: float = 1e-4
    """Highest, in those."""
    self_critical_warmup_steps: int = 30
    """Of those; their optimizer starts anew."""
    validate_with: SearchOptions = field(default_factory=lambda: SearchOptions(beam_size=3))
    """Free-running search after every epoch."""
    keep_best_by: str = "Bleu_4"
    """Validation metric whose highest value decides which weights are kept."""
    search: SearchOptions = field(default_factory=SearchOptions)
    """The bundle's defaults."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "min_count", "longest", "views", "batch_pictures"):
            at_least(name, getattr(self, name), 1)
        floors = ("learning_rate", "weight_decay", "warmup_steps", "doubly_stochastic", "encoder_learning_rate")
        for name in (*floors, "self_critical_epochs", "self_critical_learning_rate", "self_critical_warmup_steps"):
            at_least(name, getattr(self, name), 0)
        for name in ("clip_norm", "clip_value"):
            if (limit := getattr(self, name)) is not None:
                at_least(name, limit, 1e-9)
        between("label_smoothing", self.label_smoothing, 0.0, 0.9)
        between("average_decay", self.average_decay, 0.0, 0.99999)
        one_of("keep_best_by", self.keep_best_by, METRICS)


def flickr8k_attend() -> Recipe:
    """Flickr8k with soft attention on a frozen MobileNetV2: BLEU-4 20.9 at k = 7 on validation, see README.md.

    python -m training flickr8k_attend --data FLICKR8K --encoder-weights mobilenet_v2.safetensors
    """
    model = ModelConfig(
        encoder="mobilenet_v2",
        preprocessing=preprocessing_of("mobilenet_v2"),
        attention="soft",
        hidden_size=512,
        embed_size=384,
        feature_size=384,
        attention_size=128,
    )
    return Recipe(
        model=model,
        train=CaptionFiles("captions_train.json", "train"),
        validation=CaptionFiles("captions_val.json", "val"),
        epochs=8,
        views=3,
        learning_rate=1.2e-3,
        weight_decay=0.1,
        warmup_steps=150,
        clip_norm=2.0,
        average_decay=0.997,
        self_critical_epochs=2,
        search=SearchOptions(length_power=0.2),
    )


def flickr8k_inject() -> Recipe:
    """The same without attention, the picture enters at the first step alone: BLEU-4 16.7, see README.md.

    python -m training flickr8k_inject --data FLICKR8K --encoder-weights mobilenet_v2.safetensors
    """
    recipe = flickr8k_attend()
    return replace(recipe, model=replace(recipe.model, attention="none"))


def coco_attend() -> Recipe:
    """COCO 2017 with soft attention on a frozen ResNet-50.

    python -m training coco_attend --data COCO --encoder-weights torchvision
    """
    model = replace(flickr8k_attend().model, encoder="resnet50", embed_size=512, feature_size=512, attention_size=256)
    return Recipe(
        model=model,
        train=CaptionFiles("annotations/captions_train2017.json", "train2017"),
        validation=CaptionFiles("annotations/captions_val2017.json", "val2017"),
        epochs=20,
        batch_pictures=128,
        label_smoothing=0.05,
    )


def coco_inject() -> Recipe:
    """COCO 2017 without attention.

    python -m training coco_inject --data COCO --encoder-weights torchvision
    """
    recipe = coco_attend()
    return replace(recipe, model=replace(recipe.model, attention="none"))


def scenes() -> Recipe:
    """Drawn shapes (training.scenes) on a frozen encoder with random weights: the whole path in two minutes.

    Random features tell coloured shapes apart well enough once their batch norms are calibrated (training.calibrate):
    in equal time they did better than training the encoder.

    python -m training scenes
    """
    model = ModelConfig(
        encoder="resnet18",
        encoder_stage="layer2",
        preprocessing=preprocessing_of("resnet18", 64, 64),
        attention="soft",
        hidden_size=128,
        embed_size=64,
        feature_size=160,
        attention_size=32,
        positions=True,
        dropout=0.0,
    )
    return Recipe(
        model=model,
        train=CaptionFiles("captions_train.json", "train"),
        validation=CaptionFiles("captions_val.json", "val"),
        epochs=7,
        min_count=1,
        batch_pictures=64,
        learning_rate=1e-2,
        warmup_steps=30,
        label_smoothing=0.02,
        doubly_stochastic=0.0,
        average_decay=0.98,
        search=SearchOptions(max_words=20),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "coco_attend": coco_attend,
    "coco_inject": coco_inject,
    "flickr8k_attend": flickr8k_attend,
    "flickr8k_inject": flickr8k_inject,
    "scenes": scenes,
}
