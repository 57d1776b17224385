"""English endings: plurals, third persons and gerunds of the lexicon's words."""

from __future__ import annotations

from training.caption_questions.lexicon import DOUBLED, IRREGULAR_PLURALS

_VOWELS = "aeiou"


def plural(noun: str) -> str:
    """dog, dogs; box, boxes; puppy, puppies; man, men."""
    return IRREGULAR_PLURALS.get(noun) or third_person(noun)


def third_person(verb: str) -> str:
    """run, runs; catch, catches; carry, carries."""
    if verb.endswith(("s", "x", "z", "ch", "sh")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + "es" if verb in ("go", "do", "potato", "tomato") else verb + "s"


def gerund(verb: str) -> str:
    """run, running; ride, riding; lie, lying."""
    if verb == "be":
        return ""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return _doubled(verb) + "ing"


def past(verb: str) -> str:
    """jump, jumped; carry, carried; skip, skipped; regular verbs only."""
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    return _doubled(verb) + "ed"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if verb in DOUBLED else verb
