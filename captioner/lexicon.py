"""All the words of a model: of captions, of questions, and the answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from captioner.atomic import write_text
from captioner.config import ModelConfig
from captioner.vocabulary import MARKS, Vocabulary


@dataclass(frozen=True)
class Lexicon:
    """Word lists; a part that a model lacks has the marks alone."""

    captions: Vocabulary = field(default_factory=lambda: Vocabulary(MARKS))
    questions: Vocabulary = field(default_factory=lambda: Vocabulary(MARKS))
    answers: tuple[str, ...] = ()
    """In the order of the answerer's output."""

    @property
    def sizes(self) -> dict[str, int]:
        """What a network needs to know of it."""
        words = {"vocabulary_size": len(self.captions), "question_words": len(self.questions)}
        return {**words, "answers": len(self.answers)}

    def save(self, folder: Path, config: ModelConfig) -> None:
        """Write vocabulary.json, question_vocabulary.json and answers.json, those of them that the model has."""
        if config.captions:
            self.captions.save(folder / "vocabulary.json")
        if config.answerer is not None:
            self.questions.save(folder / "question_vocabulary.json")
            text = json.dumps({"answers": self.answers}, ensure_ascii=False, indent=0) + "\n"
            write_text(folder / "answers.json", text)

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Lexicon:
        """Read what save wrote; a missing file is a FileNotFoundError."""
        captions = Vocabulary.load(folder / "vocabulary.json") if config.captions else Vocabulary(MARKS)
        if config.answerer is None:
            return cls(captions)
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))["answers"]
        return cls(captions, Vocabulary.load(folder / "question_vocabulary.json"), tuple(answers))
