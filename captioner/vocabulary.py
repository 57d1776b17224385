"""The words that a decoder knows, by number. The first four are marks, not words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

PAD, START, END, UNKNOWN = 0, 1, 2, 3
MARKS = ("<pad>", "<start>", "<end>", "<unk>")


class Vocabulary:
    """Words and their numbers; len() counts the four marks too."""

    def __init__(self, words: Sequence[str]):
        if tuple(words[:4]) != MARKS:
            raise ValueError(f"a vocabulary starts with {', '.join(MARKS)}, got {', '.join(words[:4])}")
        if len(set(words)) != len(words):
            twice = [word for word, count in Counter(words).items() if count > 1]
            raise ValueError(f"a word is twice in the vocabulary: {twice[0]!r}")
        self.words = tuple(words)
        self.number = {word: n for n, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int) -> Vocabulary:
        """Keep every word seen at least min_count times, most frequent first, ties by spelling."""
        counts = Counter(word for caption in captions for word in caption)
        kept = [word for word, count in counts.items() if count >= min_count and word not in MARKS]
        if not kept:
            raise ValueError(f"no word occurs min_count={min_count} times in the captions")
        return cls(MARKS + tuple(sorted(kept, key=lambda word: (-counts[word], word))))

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of the tokens; unknown words get <unk>, whatever marks the text spells are unknown words too."""
        return [n if (n := self.number.get(token, UNKNOWN)) > UNKNOWN else UNKNOWN for token in tokens]

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what save wrote."""
        return cls(json.loads(path.read_text(encoding="utf-8"))["words"])

    def save(self, path: Path) -> None:
        """Write {"words": [...]} as UTF-8 JSON."""
        path.write_text(json.dumps({"words": self.words}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
