"""Parts of speech of captions: NLTK's unigram and suffix taggers on a hand-written lexicon, then Brill's rules.

Tags are the Penn treebank's, with a few of our own: BEZ (is) and BEP (are), HV (has, have), SUB (while, as, that
join clauses), NEG (no, not, without: nothing is asked), X (unknown). Between the lexicon and the rules a word that may
be two things has a tag of its own, such as NV (a walk, they walk), which the rules resolve by the words beside it.
NLTK is imported on first use: it is an extra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from training.caption_questions import lexicon as lex
from training.caption_questions.inflection import gerund, past, plural, third_person

if TYPE_CHECKING:
    from nltk.tag.brill import BrillTagger

SINGULAR_NOUNS = frozenset(
    chain(
        *(lex.MEN, lex.WOMEN, lex.BOYS, lex.GIRLS, lex.CHILDREN, lex.BABIES, lex.ROLES, lex.ANIMALS, lex.CLOTHES),
        *(lex.VEHICLES, lex.THINGS, lex.BODY, lex.PLACES, lex.OTHER_NOUNS, lex.EXTRA_NOUNS, lex.COLLECTIVES),
    )
)
PLURAL_LEMMAS = {plural(noun): noun for noun in sorted(SINGULAR_NOUNS)} | {noun: noun for noun in lex.CLOTHES_PLURAL}
_ALL_VERBS = tuple(dict.fromkeys((*lex.VERBS, *lex.STATIVE)))
VERB_LEMMAS = {form(verb): verb for verb in reversed(_ALL_VERBS) for form in (str, third_person, gerund)}

_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|'s|[,;]|[^\w\s]")
_GROUPS = re.compile(rf"\b({'|'.join(sorted((re.escape(g) for g in lex.WORD_GROUPS), key=len, reverse=True))})\b")
_SUFFIXES = [
    (r".*-(haired|colou?red|covered|sized|lined|shaped|patterned|striped|faced|eyed|aged|old)$", "JJ"),
    (r"^[,;]$", ","),
    (r"^[.!?]+$", "."),
    (r".*ly$", "RB"),
    (r".*", "X"),
]
_AMBIGUOUS = {
    frozenset(("NN", "VBP")): "NV",
    frozenset(("NNS", "VBZ")): "NVS",
    frozenset(("NN", "VBG")): "NG",
    frozenset(("JJ", "NN")): "JN",
    frozenset(("JJ", "VBP")): "JJ",
    frozenset(("JJ", "VBP", "NN")): "JN",
    frozenset(("JJ", "VBN")): "JJ",
    frozenset(("NN", "VBN")): "NN",
    frozenset(("NN", "NNS")): "NN",
    frozenset(("NN", "VBP", "VBN")): "NV",
    frozenset(("NN", "NNS", "VBP")): "NV",
    frozenset(("VBP", "VBN")): "VBP",
    frozenset(("JJ", "NNS")): "JJ",
    frozenset(("JJ", "VBG")): "JJ",
    frozenset(("NNS", "VBN")): "NNS",
    frozenset(("NN", "VBZ")): "NN",
    frozenset(("NN", "NNS", "VBZ")): "NNS",
    frozenset(("JJ", "NN", "VBN")): "JN",
    frozenset(("NN", "VBG", "VBZ")): "NG",
}


@dataclass(frozen=True)
class Token:
    """One word of a caption in lower case, its tag, and its dictionary form (of nouns and verbs)."""

    word: str
    tag: str
    lemma: str


def tag(caption: str) -> tuple[Token, ...]:
    """Tag one caption; stops at its ends and groups such as "next to" are one word ("next-to")."""
    text = _GROUPS.sub(lambda found: found[0].replace(" ", "-"), " ".join(caption.lower().split()))
    words = _TOKEN.findall(text)
    while words and not words[-1][0].isalnum():
        words.pop()
    return tuple(Token(word, kind, _lemma(word, kind)) for word, kind in _tagger().tag(words))


def _lemma(word: str, kind: str) -> str:
    if kind == "NNS":
        return PLURAL_LEMMAS.get(word, word)
    return VERB_LEMMAS.get(word, word) if kind.startswith("V") else word


def _dictionary() -> dict[str, str]:
    found: dict[str, set[str]] = {}

    def add(kind: str, *words: str) -> None:
        for word in words:
            found.setdefault(word, set()).add(kind)

    add("NN", *SINGULAR_NOUNS)
    add("NNS", *PLURAL_LEMMAS)
    add("JJ", *lex.ADJECTIVES)
    for verb in _ALL_VERBS:
        add("VBP", verb)
        add("VBZ", third_person(verb))
        add("VBG", gerund(verb))
        add("VBN", *lex.IRREGULAR_PAST.get(verb, past(verb)).split())
    tags = {word: next(iter(kinds)) if len(kinds) == 1 else _AMBIGUOUS.get(frozenset(kinds), "X")
            for word, kinds in found.items()}  # fmt: skip
    closed = {
        "DT": "a an the some this these those another all every each any both",
        "CD": " ".join(lex.NUMBERS) + " one 2 3 4 5 6 7 8 9 10",
        "PRP$": "his her their its my your our",
        "PRP": "it him them he she they himself herself itself themselves each-other one-another i you we me us",
        "CC": "and or but &",
        "SUB": "while whilst when where because if than then so until since which who whom whose as as-if as-well-as"
               " such-as",
        "NEG": "no not without n't nobody nothing none no-one cannot never",
        "BEZ": "is", "BEP": "are", "X": "was were been be am being will would could may might did has have had",
        "EX": "there", "TO": "to", "WDT": "that", "POS": "'s ' ’s",
        "RB": " ".join(lex.ADVERBS), "IN": " ".join(lex.PREPOSITIONS), "COLOUR": " ".join(lex.COLOURS),
        "NN": "tug-of-war", "DT+": "a-lot-of lots-of",
    }  # fmt: skip
    for kind, words in closed.items():
        tags |= dict.fromkeys(words.split(), kind)
    for word in (
        "down",
        "up",
        "off",
        "over",
        "around",
        "along",
        "past",
        "by",
        "inside",
        "outside",
        "in",
        "on",
        "underwater",
    ):
        tags[word] = "IN"
    return tags | {"underwater": "RB", "blond": "JJ", "blonde": "JJ", "orange": "COLOUR"}


@lru_cache(maxsize=1)
def _tagger() -> BrillTagger:
    from nltk.tag import RegexpTagger, UnigramTagger
    from nltk.tag.brill import BrillTagger, Pos, Word
    from nltk.tbl.rule import Rule

    rules: list[Rule] = []

    def change(old: str, new: str, *conditions: tuple[object, str]) -> None:
        rules.append(Rule(f"{len(rules):03d}", old, new, conditions))

    before, after, two_before = Pos([-1]), Pos([1]), Pos([-2])
    nominal = ("DT", "JJ", "JN", "COLOUR", "CD", "PRP$", "IN", "POS", "DT+")
    for left in nominal:  # "a walk", "their jumps", "the painting"
        change("NV", "NN", (before, left))
        change("NVS", "NNS", (before, left))
        change("NG", "NN", (before, left))
    change("NVS", "VBZ", (before, "NN"))
    change("NVS", "VBZ", (before, "RB"))
    change("NVS", "VBZ", (before, "WDT"))
    change("NVS", "VBZ", (before, "CC"), (two_before, "VBZ"))
    change("NVS", "VBZ", (before, "CC"), (Pos([-5, -4, -3]), "VBZ"))
    change("NVS", "NNS")
    change("NV", "VBP", (before, "NNS"))
    change("NV", "VBP", (before, "RB"))
    change("NV", "VBP", (before, "TO"))
    change("NV", "VBP", (before, "WDT"))
    change("NV", "VBP", (before, "CC"), (two_before, "VBP"))
    change("NV", "NN")
    change("NG", "VBG", (after, "DT"))
    change("NG", "NN")
    for right in ("NN", "NNS", "JJ", "COLOUR"):
        change("JN", "JJ", (after, right))
    change("JN", "NN")
    for right in ("IN", ",", ".", "CC", "SUB", "VBG", "RB"):  # "looks up at", "jumps off and"
        change("IN", "RP", (after, right))
    for right in ("IN", ",", ".", "CC", "VBG", "SUB", "TO", "RP"):
        change("PRP$", "PRP", (Word([0]), "her"), (after, right))
    change("EX", "RB", (before, "IN"))
    lexical = UnigramTagger(model=_dictionary(), backoff=RegexpTagger(_SUFFIXES))
    return BrillTagger(lexical, rules)
