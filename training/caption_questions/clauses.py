"""Clauses of a tagged caption: who does what to what, where. Compound sentences come apart into several.

"a man in a red shirt is sitting on a bench and holding a dog" gives two clauses about the man: he sits, he holds.
What is not understood ends the reading; a clause cut short by an unknown word is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from training.caption_questions import lexicon as lex
from training.caption_questions.inflection import gerund
from training.caption_questions.phrases import NounPhrase, noun_phrase
from training.caption_questions.tagger import Token

PERSONS = frozenset((*lex.MEN, *lex.WOMEN, *lex.BOYS, *lex.GIRLS, *lex.CHILDREN, *lex.BABIES, *lex.ROLES))
ANIMALS = frozenset(lex.ANIMALS)
_ENDS = ("END", ".", ",", "CC", "SUB", "VBG", "VBN", "WDT")


@dataclass(frozen=True)
class Complement:
    """What follows a verb: an object (no word), a prepositional phrase (its word), or an adverb (no phrase)."""

    word: str
    phrase: NounPhrase | None
    alone: bool = True
    """False if "and" joins something to it, so that it is not the whole answer."""

    @property
    def text(self) -> str:
        name = self.phrase.definite if self.phrase else ""
        return f"{self.word.replace('-', ' ')} {name}".strip()


@dataclass(frozen=True)
class Subject:
    phrases: tuple[NounPhrase, ...]
    """More than one in "a man and a woman"."""
    extras: tuple[Complement, ...] = ()
    """ "in a red shirt"."""

    @property
    def plural(self) -> bool:
        return len(self.phrases) > 1 or (self.phrases[0].plural and not self.phrases[0].collective)

    @property
    def text(self) -> str:
        return " ".join([" and ".join(p.definite for p in self.phrases), *(e.text for e in self.extras)])


@dataclass(frozen=True)
class Clause:
    subject: Subject
    verb: str
    """In dictionary form; "be" where there is only a place."""
    complements: tuple[Complement, ...] = field(default=())

    @property
    def be(self) -> str:
        return "are" if self.subject.plural else "is"

    @property
    def doing(self) -> str:
        """ "running"; empty for "be"."""
        verb = "lie" if self.verb == "lay" and not self.object else self.verb
        return gerund(verb)

    @property
    def object(self) -> Complement | None:
        return next((c for c in self.complements if c.phrase and not c.word), None)


class _Reader:
    """A place in the tokens."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def tag(self, ahead: int = 0) -> str:
        i = self.at + ahead
        return self.tokens[i].tag if i < len(self.tokens) else "END"

    def word(self) -> str:
        return self.tokens[self.at].word

    def phrase(self, ahead: int = 0) -> NounPhrase | None:
        return noun_phrase(self.tokens, self.at + ahead)


def clauses(tokens: Sequence[Token]) -> list[Clause]:
    """The clauses of one caption, in order; empty if nothing was understood."""
    found: list[Clause] = []
    reader = _Reader(tokens)
    while reader.at < len(tokens):
        if reader.tag() == "EX" and reader.tag(1) in ("BEZ", "BEP"):
            reader.at += 2
        before = reader.at
        subject = _subject(reader)
        if subject:
            found += _predicates(reader, subject)
        if reader.at < len(tokens) and any(t.tag == "NEG" for t in tokens):
            return []
        # On to the next sentence or clause.
        while reader.at < len(tokens) and reader.tag() not in (".", "SUB", ",", "CC"):
            reader.at += 1
        reader.at = max(reader.at + 1, before + 1)
    return found


def _subject(reader: _Reader) -> Subject | None:
    phrase = reader.phrase()
    if phrase is None or reader.tag() == "PRP":
        return None
    phrases = [phrase]
    reader.at = phrase.end
    while reader.tag() == "CC" and reader.word() == "and" and (other := reader.phrase(1)) and reader.tag(1) != "PRP":
        phrases.append(other)
        reader.at = other.end
    extras: list[Complement] = []
    while reader.tag() == "IN" and reader.word() in ("in", "with", "on") and (inner := reader.phrase(1)):
        extras.append(Complement(reader.word(), inner))
        reader.at = inner.end
        while reader.tag() == "CC" and (other := reader.phrase(1)) and _tag_at(reader, other.end) not in ("BEZ", "BEP"):
            extras.append(Complement("and", other, alone=False))
            reader.at = other.end
    return Subject(tuple(phrases), tuple(extras))


def _tag_at(reader: _Reader, i: int) -> str:
    return reader.tokens[i].tag if i < len(reader.tokens) else "END"


def _predicates(reader: _Reader, subject: Subject) -> list[Clause]:
    """All that is said of one subject: "is sitting ... and holding ..."."""
    found: list[Clause] = []
    finite_seen = False
    while True:
        joined, place = False, reader.at
        if reader.tag() == "," and reader.tag(1) == "CC":
            reader.at += 1
        if reader.tag() in (",", "CC", "WDT") or (reader.tag() == "SUB" and reader.tag(1) == "VBG"):
            joined = reader.tag() == "CC" or reader.tag() == "SUB"
            reader.at += 1
        kind = reader.tag()
        finite = kind in ("VBZ", "VBP", "BEZ", "BEP")
        if finite and finite_seen and not joined:
            return found
        if kind == "VBG" and found and not joined and _may_act(found[-1]):
            return found
        if not _agrees(kind, subject):
            return found
        before = reader.at
        clause = _predicate(reader, subject)
        if reader.at == before:
            reader.at = place  # an "and" before another subject is the next clause's
            return found
        finite_seen |= finite
        if clause:
            found.append(clause)


def _may_act(clause: Clause) -> bool:
    """Whether a participle that follows may be said of something in the clause rather than of its subject."""
    named = [c.phrase.head for c in clause.complements if c.phrase]
    return any(head in PERSONS or head in ANIMALS or head in lex.VEHICLES for head in named)


def _agrees(kind: str, subject: Subject) -> bool:
    if subject.phrases[0].collective:
        return True
    return not (kind in ("VBZ", "BEZ") and subject.plural) and not (kind in ("VBP", "BEP") and not subject.plural)


def _predicate(reader: _Reader, subject: Subject) -> Clause | None:
    kind = reader.tag()
    if kind in ("BEZ", "BEP"):
        reader.at += 1
        while reader.tag() == "RB" and reader.tag(1) in ("VBG", "IN"):
            reader.at += 1
        if reader.tag() == "VBG":
            return _verb(reader, subject)
        if reader.tag() == "IN":
            complements, whole = _complements(reader)
            return Clause(subject, "be", complements) if whole and complements else None
        return None
    if kind == "RB" and reader.tag(1) in ("VBG", "VBZ", "VBP"):
        reader.at += 1
        kind = reader.tag()
    if kind in ("VBG", "VBZ", "VBP"):
        return _verb(reader, subject)
    if kind == "VBN":  # "a man dressed in red": read over
        reader.at += 1
        _complements(reader)
    return None


def _verb(reader: _Reader, subject: Subject) -> Clause | None:
    verb, finite = reader.tokens[reader.at].lemma, reader.tag() != "VBG" or reader.tag(-1) in ("BEZ", "BEP")
    reader.at += 1
    complements, whole = _complements(reader, finite)
    return Clause(subject, verb, complements) if whole and verb not in lex.STATIVE else None


def _complements(reader: _Reader, finite: bool = True) -> tuple[tuple[Complement, ...], bool]:
    """What follows a verb, and whether its end was reached with all understood."""
    found: list[Complement] = []
    while True:
        kind = reader.tag()
        if kind in ("RP", "RB"):
            found.append(Complement(reader.word(), None))
            reader.at += 1
        elif kind in ("IN", "TO") and reader.word() != "of" and (phrase := reader.phrase(1)):
            word = reader.word()
            reader.at = phrase.end
            found.append(Complement(word, phrase, not _joined(reader)))
        elif kind == "IN" and reader.tag(1) == "IN" and (phrase := reader.phrase(2)):  # "up on a wall"
            found.append(Complement(reader.word(), None))
            reader.at += 1
        elif not any(c.phrase for c in found) and (phrase := reader.phrase()):
            reader.at = phrase.end
            found.append(Complement("", phrase, not _joined(reader)))
        else:
            # What comes next may belong to the last phrase; where it does not end there, nothing is known.
            ends = _ENDS if finite else (*_ENDS, "VBZ", "VBP", "BEZ", "BEP")
            return tuple(found), kind in ends


def _joined(reader: _Reader) -> bool:
    """Read over "and a stick"; an "and" before a verb stays."""
    seen = False
    while reader.tag() in ("CC", ",") and (other := reader.phrase(1)):
        if _tag_at(reader, other.end) in ("BEZ", "BEP", "VBZ", "VBP", "VBG"):
            return seen
        reader.at, seen = other.end, True
    return seen
