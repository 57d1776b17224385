"""What a run is made of: its files, and every setting that decides it."""

from __future__ import annotations

from dataclasses import dataclass, field

from captioner.config import ModelConfig, SearchOptions, at_least, between, one_of
from eval.metrics import METRICS

ANSWER_METRICS = ("accuracy", "mrr", "Bleu_4 + accuracy")
"""What validation on questions gives besides; the last where captions are learnt too."""


@dataclass(frozen=True)
class CaptionFiles:
    """A COCO-format split, relative to the folder given with --data."""

    annotations: str
    pictures: str
    """Folder of the pictures."""
    split: str | None = None
    """Only for Karpathy's one file of all splits, such as "train+restval"."""


@dataclass(frozen=True)
class QuestionFiles:
    """A set of questions, relative to the folder given with --data."""

    questions: str
    """In VQA's layout; of dialogs VisDial's."""
    annotations: str | None
    """People's answers; of dialogs the dense relevances, if there are any."""
    pictures: str
    """Folder of the pictures."""
    naming: str | None = None
    """Pattern of their file names, see eval.questions.load_questions."""
    dialogs: bool = False
    """Whether the file is VisDial's."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, but where things lie and on which device."""

    model: ModelConfig
    train: CaptionFiles | None
    validation: CaptionFiles | None
    epochs: int
    train_questions: tuple[QuestionFiles, ...] = ()
    """With captions beside them, each step learns from a batch of both."""
    validation_questions: QuestionFiles | None = None
    answer_weight: float = 1.0
    """Of the loss of answers beside that of captions."""
    entropy_weight: float = 0.0
    """Of the entropy, in nats, of where the last hop looks for an answer; the higher, the fewer cells it looks at."""
    min_answers: int = 1
    """Answers that fewer questions have are not learnt."""
    most_answers: int = 3000
    """The commonest are learnt."""
    min_question_count: int = 1
    """Words that questions have less often become <unk>."""
    word_dropout: float = 0.0
    """Share of a question's words that become <unk> in training."""
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
        counts = ("min_answers", "most_answers", "min_question_count")
        for name in ("epochs", "min_count", "longest", "views", "batch_pictures", *counts):
            at_least(name, getattr(self, name), 1)
        floors = ("learning_rate", "weight_decay", "warmup_steps", "doubly_stochastic", "encoder_learning_rate",
                  "answer_weight", "entropy_weight")  # fmt: skip
        for name in (*floors, "self_critical_epochs", "self_critical_learning_rate", "self_critical_warmup_steps"):
            at_least(name, getattr(self, name), 0)
        for name in ("clip_norm", "clip_value"):
            if (limit := getattr(self, name)) is not None:
                at_least(name, limit, 1e-9)
        if (self.train is None) == self.model.captions or (self.validation is None) == self.model.captions:
            raise ValueError("a recipe needs files of captions if its model writes captions, and only then")
        if bool(self.train_questions) != (self.model.answerer is not None):
            raise ValueError("a recipe needs files of questions if its model has an answerer, and only then")
        if (self.validation_questions is None) != (self.model.answerer is None):
            raise ValueError("a recipe needs questions for validation if its model has an answerer, and only then")
        between("word_dropout", self.word_dropout, 0.0, 0.9)
        between("label_smoothing", self.label_smoothing, 0.0, 0.9)
        between("average_decay", self.average_decay, 0.0, 0.99999)
        one_of("keep_best_by", self.keep_best_by, (*METRICS, *ANSWER_METRICS))
