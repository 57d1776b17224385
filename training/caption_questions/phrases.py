"""Noun phrases of a tagged caption: what they name, how many, in which colours, and how a question names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.caption_questions import lexicon as lex
from training.caption_questions.tagger import Token

MANY = 0
"""The number of "several dogs", "dogs", "a group of dogs": more than one."""
_INDEFINITE = ("a", "an", "some", "the", "this", "these", "those")
_QUANTIFIERS = ("several", "many", "few", "multiple", "various", "a-lot-of", "lots-of")
_SHADES = ("dark", "light", "bright", "pale")
_NOBODY = ("someone", "somebody", "something")


@dataclass(frozen=True)
class NounPhrase:
    """tokens[start:end] of a caption, such as "a small brown dog"."""

    start: int
    end: int
    determiner: str
    """The first word if it is a determiner or a possessive, else empty."""
    modifiers: tuple[str, ...]
    """The words between determiner or number and head."""
    head: str
    """In dictionary form: dog, not dogs."""
    surface: str
    """The head as written."""
    plural: bool
    number: int | None
    """1 for one thing, 2 to 10 where a number is said, MANY, or None for a mass ("grass") or a pronoun."""
    colours: tuple[str, ...]
    """Those that are said of the head, in its order."""
    collective: str = ""
    """ "group" of "a group of dogs"."""

    @property
    def some(self) -> bool:
        """Whether it speaks of three or more without counting: "several dogs", "a group of dogs"."""
        said = self.determiner in _QUANTIFIERS or any(word in _QUANTIFIERS for word in self.modifiers)
        return self.number == MANY and (said or self.collective not in ("", "couple", "pair"))

    @property
    def definite(self) -> str:
        """As a question names it again: "the small brown dog"; what has no article keeps none."""
        words = [*self.modifiers, self.surface]
        if self.collective:
            return f"the {self.collective} of {' '.join(words)}"
        if self.determiner and self.determiner not in _INDEFINITE:
            return " ".join([self.determiner, *words])
        if self.determiner or self.number not in (None, MANY) or self.head in lex.MASS:
            return " ".join(["the", *([_digits(self.number)] if self.plural and self.number else []), *words])
        return " ".join(words)

    @property
    def name(self) -> str:
        """The head and what goes before it but colours, for a question about a colour: "tennis ball"."""
        return " ".join([*(w for w in self.modifiers if w not in (*lex.COLOURS, *_SHADES, "and", ",")), self.surface])


def _digits(number: int | None) -> str:
    return next((word for word, n in lex.NUMBERS.items() if n == number), "")


def noun_phrase(tokens: Sequence[Token], start: int) -> NounPhrase | None:
    """The longest noun phrase that starts there; None if there is none or if it is one that is not understood."""
    i, determiner, number, said = start, "", None, False
    if i < len(tokens) and tokens[i].tag == "PRP":
        return NounPhrase(i, i + 1, "", (), tokens[i].word, tokens[i].word, False, None, ())
    if i < len(tokens) and tokens[i].tag in ("DT", "PRP$", "DT+"):
        determiner = tokens[i].word
        i += 1
    if i < len(tokens) and tokens[i].tag == "CD":
        number = lex.NUMBERS.get(tokens[i].word) or (1 if tokens[i].word == "one" else _number(tokens[i].word))
        said = True
        i += 1
    first = i
    head = None
    while i < len(tokens):
        kind = tokens[i].tag
        if kind in ("NN", "NNS"):
            head = i
        elif kind == "VBG":
            fits = head is None and (i > start) and _tag(tokens, i + 1) in ("NN", "NNS")
            if not fits or (i == first and not determiner and not said):
                break
        elif kind == "VBN":
            if head is not None or _tag(tokens, i + 1) not in ("NN", "NNS", "JJ", "COLOUR"):
                break
        elif kind in ("CC", ","):
            if head is not None or i == first or not _between_adjectives(tokens, i):
                break
        elif kind == "RB":
            if head is not None or _tag(tokens, i + 1) not in ("JJ", "VBN"):
                break
        elif kind not in ("JJ", "COLOUR") or head is not None:
            break
        i += 1
    if head is None:
        return _colour_alone(tokens, start, first)
    if (
        _tag(tokens, head + 1) in ("POS", "X", "NV", "CD")
        or tokens[head].word in _NOBODY
        or determiner in ("another", "each", "all", "every", "any", "both")
    ):
        return None
    return _group(tokens, _phrase(tokens, start, first, head, determiner, number))


def _phrase(
    tokens: Sequence[Token], start: int, first: int, head: int, determiner: str, number: int | None
) -> NounPhrase:
    token = tokens[head]
    several = token.tag == "NNS" or token.lemma in ("people",)
    modifiers = tuple(t.word for t in tokens[first:head])
    if several:
        number = number if number not in (None, 1) else MANY
    elif token.lemma in lex.MASS or (not determiner and number is None and first > 0):
        number = None
    else:
        number = 1
    colours = tuple(t.word for t in tokens[first:head] if t.tag == "COLOUR")
    return NounPhrase(start, head + 1, determiner, modifiers, token.lemma, token.word, several, number, colours)


def _group(tokens: Sequence[Token], phrase: NounPhrase) -> NounPhrase | None:
    """Join "a group" with its "of dogs"; other phrases with "of" are not understood."""
    if _tag(tokens, phrase.end) != "IN" or tokens[phrase.end].word != "of":
        return phrase
    inner = noun_phrase(tokens, phrase.end + 1)
    if inner is None or not inner.plural or phrase.head not in lex.COLLECTIVES or phrase.plural or inner.determiner:
        return None
    collective = " ".join([*phrase.modifiers, phrase.surface])
    number = inner.number if phrase.head != "couple" else MANY
    return replace(inner, start=phrase.start, determiner=phrase.determiner, number=number, collective=collective)


def _colour_alone(tokens: Sequence[Token], start: int, first: int) -> NounPhrase | None:
    """ "red" of "a man in red"; "black and white" too."""
    if first != start or _tag(tokens, start) != "COLOUR":
        return None
    end = start + 1
    while _tag(tokens, end) == "CC" and _tag(tokens, end + 1) == "COLOUR":
        end += 2
    if _tag(tokens, end) in ("X", "JJ", "VBN", ","):
        return None
    words = [t.word for t in tokens[start:end]]
    return NounPhrase(start, end, "", tuple(words[:-1]), words[-1], words[-1], False, None, ())


def _between_adjectives(tokens: Sequence[Token], i: int) -> bool:
    return _tag(tokens, i - 1) in ("JJ", "COLOUR") and (
        _tag(tokens, i + 1) in ("JJ", "COLOUR") or (tokens[i].word == "," and _tag(tokens, i + 1) == "CC")
        or (_tag(tokens, i - 1) == "," and _tag(tokens, i + 1) in ("JJ", "COLOUR"))
    )  # fmt: skip


def _tag(tokens: Sequence[Token], i: int) -> str:
    return tokens[i].tag if 0 <= i < len(tokens) else "END"


def _number(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() else None


def noun_phrases(tokens: Sequence[Token]) -> list[NounPhrase]:
    """All of a caption, from left to right, none inside another."""
    found, i = [], 0
    while i < len(tokens):
        phrase = noun_phrase(tokens, i)
        if phrase is not None:
            found.append(phrase)
        i = phrase.end if phrase else i + 1
    return found
