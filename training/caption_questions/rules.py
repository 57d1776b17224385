"""Questions from clauses, of the four kinds of Ren, Kiros and Zemel (2015): object, number, colour, place.

The answer's phrase gives way to a wh-word that goes to the front, the auxiliary before the subject; verbs become
progressive, for a question about a picture asks what is happening; things named once become definite. Nothing is
moved out of a subordinate clause. Where the captions of a picture differ, or the answer is in the question, nothing is
asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from training.caption_questions import lexicon as lex
from training.caption_questions.agreement import Facts, ReadCaption, canonical, read
from training.caption_questions.clauses import ANIMALS, PERSONS, Clause, Complement
from training.caption_questions.inflection import plural
from training.caption_questions.phrases import NounPhrase
from training.caption_questions.tagger import PLURAL_LEMMAS

KINDS = ("object", "number", "colour", "place")
_PLACE_WORDS = ("in", "on", "at", "inside", "through", "across", "along", "down")
_STRANDED = (
    "on",
    "over",
    "with",
    "at",
    "through",
    "under",
    "behind",
    "beside",
    "next-to",
    "in-front-of",
    "near",
    "onto",
    "against",
    "from",
    "in",
)
_PLACES = frozenset(map(canonical, lex.PLACES))
_ACTORS = frozenset(("man", "woman", "boy", "girl", "child", "baby"))
_THINGS = (
    frozenset(map(canonical, (*lex.THINGS, *lex.VEHICLES, *lex.ANIMALS, *lex.EXTRA_NOUNS))) - _PLACES - {"toy", "ring"}
)
_CLOTHES = frozenset((*lex.CLOTHES, *lex.CLOTHES_PLURAL))
_OUTFITS = ("suit", "uniform", "costume", "dress", "tuxedo", "bikini", "swimsuit", "wetsuit", "robe", "kimono")
_GROUPS = {group.replace(" ", "-"): group for group in lex.WORD_GROUPS}
_COLOURED = frozenset(map(canonical, (*_CLOTHES, *lex.VEHICLES, *lex.ANIMALS))) | _THINGS - {
    "wine",
    "water",
    "beer",
    "light",
    "area",
    "animal",
}


@dataclass(frozen=True)
class Question:
    kind: str
    """One of KINDS."""
    text: str
    answer: str


def picture_questions(captions: Iterable[str]) -> list[Question]:
    """All that the captions of one picture let one ask, in their order, each question once."""
    readings = [read(caption) for caption in captions]
    facts = Facts(readings)
    found: dict[str, Question] = {}
    contradicted: set[str] = set()
    for reading in readings:
        for question in _questions(reading, facts):
            if found.setdefault(question.text, question).answer != question.answer:
                contradicted.add(question.text)
    return [q for text, q in found.items() if text not in contradicted and not _leaks(q)]


def _questions(reading: ReadCaption, facts: Facts) -> Iterator[Question]:
    for clause in reading.clauses:
        if not _sensible(clause):
            continue
        yield from _about_subject(clause, facts)
        yield from _about_number(clause, facts)
        yield from _about_object(clause, facts)
        yield from _about_place(clause, facts)
    yield from _about_colour(reading, facts)


def _sensible(clause: Clause) -> bool:
    if any(c.phrase and c.phrase.head in lex.VAGUE for c in clause.complements):
        return False
    return bool(clause.object) if clause.verb in lex.TRANSITIVE else bool(clause.complements) or clause.verb != "ride"


def _question(kind: str, words: Sequence[str], answer: str) -> Question:
    text = _spaced(" ".join(" ".join(words).split()))
    return Question(kind, text[0].upper() + text[1:] + "?", _spaced(answer))


def _spaced(text: str) -> str:
    """Take word groups apart again: "body-of-water" as it was written."""
    return " ".join(_GROUPS.get(word, word) for word in text.split())


def _said(complements: Sequence[Complement]) -> str:
    return " ".join(c.text for c in complements)


def _about_subject(clause: Clause, facts: Facts) -> Iterator[Question]:
    """ "a dog runs on the beach": what is running on the beach?"""
    if len(clause.subject.phrases) != 1:
        return
    phrase, answer = clause.subject.phrases[0], canonical(clause.subject.phrases[0].head)
    rest = _said(clause.complements)
    if phrase.number != 1 or not clause.complements or not facts.alone(answer) or facts.number(answer) != 1:
        return
    if answer in ANIMALS and clause.verb == "wear":  # "what is wearing the collar?" is no English
        return
    if answer in _ACTORS and not {"his", "her", "him", "himself", "herself"} & set(rest.split()):
        yield _question("object", ["who is", clause.doing, rest], answer)
    elif answer in ANIMALS and answer != "animal":
        yield _question("object", ["what is", clause.doing, rest], answer)


def _about_number(clause: Clause, facts: Facts) -> Iterator[Question]:
    """ "two dogs play": how many dogs are playing?"""
    if len(clause.subject.phrases) != 1:
        return
    phrase = clause.subject.phrases[0]
    noun, number = canonical(phrase.head), facts.number(canonical(phrase.head))
    if number is None or (number == 1 and facts.single[noun] < 3) or (noun not in PERSONS and noun not in ANIMALS):
        return
    if number == 1 and (not facts.alone(noun) or phrase.plural):
        return
    rest = _said(clause.complements)
    if (
        phrase.collective
        or phrase.number != number
        or {"his", "her", "its", "himself", "herself", "itself"} & set(rest.split())
    ):
        return
    if number == 1 and clause.verb == "wear":
        return
    many = phrase.surface if phrase.plural else plural(noun)
    yield _question("number", ["how many", many, "are", clause.doing, rest], str(number))


def _about_object(clause: Clause, facts: Facts) -> Iterator[Question]:
    """ "a man is holding a guitar": what is the man holding?"""
    if clause.verb in ("be", "do", "make", "take", "have"):
        return
    for n, asked in enumerate(clause.complements):
        if asked.phrase is None:
            continue
        first = not any(c.phrase for c in clause.complements[:n])
        if first and asked.alone and _askable(clause, asked, asked.phrase, facts):
            wh = "who" if asked.phrase.head in PERSONS else "what"
            before, after = clause.complements[:n], () if asked.word else clause.complements[n + 1 :]
            words = [
                wh,
                clause.be,
                clause.subject.text,
                clause.doing,
                _said(before),
                asked.word.replace("-", " "),
                _said(after),
            ]
            yield _question("object", words, canonical(asked.phrase.head))
        return


def _askable(clause: Clause, asked: Complement, phrase: NounPhrase, facts: Facts) -> bool:
    noun = canonical(phrase.head)
    if facts.objects[clause.verb, asked.word] != {noun} or phrase.determiner == "their":
        return False
    if phrase.plural or not phrase.determiner:  # "playing ball", "catching air"
        return False
    if clause.verb == "wear":
        return noun in _OUTFITS and sum(word in _CLOTHES for word in facts.mentions) == 1
    if noun in _ACTORS:
        return not asked.word and facts.mentions[noun] > 1 and clause.subject.phrases[0].head != phrase.head
    return noun in _THINGS and (not asked.word or asked.word in _STRANDED)


def _about_place(clause: Clause, facts: Facts) -> Iterator[Question]:
    """ "a dog runs on the beach": where is the dog running?"""
    for n, asked in enumerate(clause.complements):
        if asked.phrase is None or asked.word not in _PLACE_WORDS or asked.phrase.plural:
            continue
        noun = canonical(asked.phrase.head)
        if noun in _PLACES and asked.alone and facts.place(noun):
            yield _question(
                "place", ["where", clause.be, clause.subject.text, clause.doing, _said(clause.complements[:n])], noun
            )
        return


def _about_colour(reading: ReadCaption, facts: Facts) -> Iterator[Question]:
    """ "a man in a red shirt": what is the colour of the man's shirt?"""
    for phrase in reading.phrases:
        noun = canonical(phrase.head)
        if len(phrase.colours) != 1 or noun not in _COLOURED or "and" in phrase.modifiers:
            continue
        colour = facts.colour(noun)
        if (
            colour is None
            or (phrase.plural and phrase.head not in lex.CLOTHES_PLURAL)
            or phrase.number not in (1, 0, None)
        ):
            continue
        if (noun in ANIMALS and facts.number(noun) != 1) or (phrase.head in _CLOTHES and not facts.one_wearer):
            continue
        yield _question("colour", ["what is the colour of the", phrase.name], colour)


def _leaks(question: Question) -> bool:
    """Whether the answer, its plural or another word for it is in the question."""
    text = question.text.lower().rstrip("?")
    words = [PLURAL_LEMMAS.get(word, word) for word in text.split()]
    digits = {word: str(n) for word, n in lex.NUMBERS.items()} | {"one": "1"}
    if f" {question.answer} " in f" {text} ":
        return True
    return any(question.answer in (canonical(word), digits.get(word)) for word in words)
