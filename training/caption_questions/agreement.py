"""What all captions of one picture say together, so that nothing is asked on which they differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.caption_questions import lexicon as lex
from training.caption_questions.clauses import ANIMALS, PERSONS, Clause, clauses
from training.caption_questions.phrases import MANY, NounPhrase, noun_phrases
from training.caption_questions.tagger import Token, tag

_KINDS_OF = {
    **dict.fromkeys(lex.MEN, "man"), **dict.fromkeys(lex.WOMEN, "woman"), **dict.fromkeys(lex.BOYS, "boy"),
    **dict.fromkeys(lex.GIRLS, "girl"), **dict.fromkeys(lex.CHILDREN, "child"), **dict.fromkeys(lex.BABIES, "baby"),
    **dict.fromkeys(lex.DOGS, "dog"), **dict.fromkeys(lex.CATS, "cat"),
}  # fmt: skip
_MAY_BE = {
    "child": {"boy", "girl", "baby"},
    "boy": {"child", "baby"},
    "girl": {"child", "baby"},
    "baby": {"boy", "girl", "child"},
}


def canonical(noun: str) -> str:
    """One word for those that mean the same: dog for terrier, gray for grey, couch for sofa."""
    return _KINDS_OF.get(noun) or lex.SPELLINGS.get(noun, noun)


@dataclass(frozen=True)
class ReadCaption:
    tokens: tuple[Token, ...]
    phrases: tuple[NounPhrase, ...]
    clauses: tuple[Clause, ...]


def read(caption: str) -> ReadCaption:
    """Tag and parse one caption."""
    tokens = tag(caption)
    return ReadCaption(tokens, tuple(noun_phrases(tokens)), tuple(clauses(tokens)))


class Facts:
    """Nouns, numbers, colours, objects and places of one picture, from all its captions."""

    def __init__(self, captions: Sequence[ReadCaption]) -> None:
        self.mentions: Counter[str] = Counter()
        """Captions that name a thing, by its canonical noun."""
        self.colours: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
        self.objects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """Nouns by (verb, preposition)."""
        self.single: Counter[str] = Counter()
        """Captions with one phrase about a thing."""
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)
        self._in_one_caption: Counter[str] = Counter()
        self._several: set[str] = set()
        self._persons_in_one_caption = 0
        self._others = False
        for caption in captions:
            self._add(caption)

    def _add(self, caption: ReadCaption) -> None:
        # Nouns that no phrase was read around ("another dog") count as mentions too.
        nouns = [t for t in caption.tokens if t.tag in ("NN", "NNS")]
        self.mentions.update({canonical(t.lemma) for t in nouns})
        self._others |= any(
            t.word in ("another", "other", "others", "both", "each-other", "one-another", "reflection")
            for t in caption.tokens
        )
        self._persons_in_one_caption = max(
            self._persons_in_one_caption, sum(canonical(t.lemma) in PERSONS for t in nouns)
        )
        here: Counter[str] = Counter()
        for phrase in caption.phrases:
            noun = canonical(phrase.head)
            here[noun] += 1
            if phrase.number is not None:
                self._numbers[noun].add(phrase.number)
            if phrase.some:
                self._several.add(noun)
            if phrase.colours:
                self.colours[noun].add(tuple(sorted({canonical(c) for c in phrase.colours})))
        for noun, count in here.items():
            self._in_one_caption[noun] = max(self._in_one_caption[noun], count)
            self.single[noun] += count == 1
        for clause in caption.clauses:
            for c in clause.complements:
                if c.phrase:
                    self.objects[clause.verb, c.word].add(canonical(c.phrase.head))

    def number(self, noun: str) -> int | None:
        """How many of a thing there are, if the captions agree; 1 only if nobody speaks of another."""
        numbers = self._numbers[noun]
        if len(numbers - {MANY}) != 1 or self._in_one_caption[noun] > 1:
            return None
        (number,) = numbers - {MANY}
        if number == 1:
            return None if MANY in numbers or self._others else 1
        if number <= _FEW and noun in self._several:
            return None
        for other, said in self._numbers.items():
            if other != noun and alike(noun, other) and any(n > number for n in said):
                return None
        if noun != "person" and noun in PERSONS and self._numbers["person"] - {number, 1, MANY}:
            return None
        return number

    def colour(self, noun: str) -> str | None:
        """The one colour of the one thing of its name."""
        if len(self.colours[noun]) != 1 or self._others or self._in_one_caption[noun] > 1:
            return None
        (colours,) = self.colours[noun]
        return colours[0] if len(colours) == 1 else None

    def alone(self, noun: str) -> bool:
        """Whether no caption names another person (of a person) or animal (of an animal) that it cannot also be."""
        group = PERSONS if noun in PERSONS else ANIMALS if noun in ANIMALS else None
        if group is None:
            return True
        allowed = {noun, *_MAY_BE.get(noun, ()), "animal", *(_ROLE_NOUNS if noun in PERSONS else ())}
        if noun == "child" and any(self.mentions[other] for other in _MAY_BE["child"]):
            return False  # the others say it better
        if any(self.mentions[other] > self.mentions[noun] for other in _MAY_BE.get(noun, ()) if other != "child"):
            return False
        return all(other in allowed for other in self.mentions if other in group)

    @property
    def one_wearer(self) -> bool:
        """Whether nobody speaks of two persons or more; of two animals, if there are no persons."""
        persons = [noun for noun in self.mentions if noun in PERSONS]
        wearers = persons or [noun for noun in self.mentions if noun in ANIMALS]
        return (
            self._persons_in_one_caption < 2
            and all(self._numbers[noun] == {1} for noun in wearers)
            and not self._others
        )

    def place(self, noun: str) -> bool:
        """Whether no other place is named as often."""
        rivals = [n for place, n in self.mentions.items() if place in _PLACES and place != noun]
        return self.mentions[noun] > max(rivals, default=0)


_FEW = 3
"""Who says "several" or "a group" need not mean so few."""
_PLACES = frozenset(canonical(p) for p in lex.PLACES)
_GENDERED = frozenset(("man", "woman", "boy", "girl", "child", "baby"))
_ROLE_NOUNS = frozenset(map(canonical, lex.ROLES)) - _GENDERED - frozenset(lex.OTHER_PERSONS)
"""What a man, a woman or a child may also be called."""


def alike(one: str, other: str) -> bool:
    """Whether both are persons, or both animals."""
    return any(one in group and other in group for group in (PERSONS, ANIMALS))
