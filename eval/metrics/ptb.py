"""The tokens of coco-caption's PTBTokenizer, without Java.

pycocoevalcap 1.2 writes its captions into one file, a line each, runs Stanford CoreNLP 3.4.1's PTBTokenizer on it
(`-preserveLines -lowerCase`) and drops PUNCTUATION. Some of what comes of that is odd and wanted: brackets stay as
"-lrb-", because the list names them in upper case; "£" is "#", "€" is "$", "½" is "1/2"; British spelling, slashes and
asterisks stay as they are; "1 1/2" is one token with a non-breaking space in it, which coco-caption's BLEU and CIDEr
split again (str.split()) and its ROUGE-L does not (split(" ")).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from eval.metrics.ptb_patterns import ABBREVIATED, CLOSED, RULES, SHAPES, SPLIT_WORDS

# ptbtokenizer.py, PUNCTUATIONS, compared with tokens in lower case.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_PLAIN_CAPTION = re.compile(r"(?: *[A-Za-z]+(?= ))* *(?:[A-Za-z]+(\.?)|\.) *")
_SIGMA_WORD = re.compile(r"(?:(?![\u2e80-\u9fff])[\w\xad\u0300-\u036f]|(?<=[^\W\d_])[\"'.-](?=[^\W\d_]))+")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


def ptb_tokenize(text: str, following: str | None = "") -> list[str]:
    """The tokens of one caption, in lower case and without punctuation, as coco-caption has them.

    `following` is what comes after the caption's line in coco-caption's file, None if nothing does, for the lexer looks
    past the end of a line: "vitamin A." ends in "a" before a line that starts with "The " and in "a." before others;
    "no." keeps its period before a digit; ":D" and "photo.jpg" are one token only if the line is not the last.
    Line separators other than "\\n" count as spaces here; coco-caption would be a line off for all captions after it.
    Not followed: a tag whose quoted attribute is still open at the end of the line, which there swallows lines.
    """
    if plain := _PLAIN_CAPTION.fullmatch(text):
        words = text.lower().replace(".", "").split()
        if SPLIT_WORDS.isdisjoint(words) and not (plain[1] and ABBREVIATED.fullmatch(text.split()[-1])):
            return words
    text = text.replace("\n", " ")
    astral = _ASTRAL.search(text)
    if astral:  # Java's characters are UTF-16 units.
        text = _ASTRAL.sub(lambda found: _surrogates(found[0]), text)
    line = " ".join(_tokens(text, following)).rstrip()
    if astral:
        line = line.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return [token for token in line.split(" ") if token and token not in PUNCTUATION]


def _surrogates(character: str) -> str:
    code = ord(character) - 0x10000
    return chr(0xD800 + (code >> 10)) + chr(0xDC00 + (code & 0x3FF))


def _tokens(text: str, following: str | None) -> Iterator[str]:
    seen = text if following is None else f"{text}\n{following}"
    shape = _shape(seen)
    place = 0
    while place < len(text):
        if piece := CLOSED.match(shape, place):
            yield from _closed_piece(seen[piece.start(1) : piece.end(1)])
            place = piece.end()
        else:
            token, place = _longest_match(seen, shape, place)
            yield from token


@lru_cache(maxsize=100_000)
def _closed_piece(piece: str) -> tuple[str, ...]:
    seen, place, tokens = piece + " ", 0, []
    shape = _shape(seen)
    while place < len(piece):
        token, place = _longest_match(seen, shape, place)
        tokens += token
    return tuple(tokens)


def _shape(text: str) -> str:
    return text if text.isascii() else text.translate(SHAPES)


def _longest_match(text: str, shape: str, place: int) -> tuple[list[str], int]:
    """The token at a place, none for what is skipped, and where the next one starts. Of equals, the first rule wins."""
    end = place
    for rule in RULES:
        found = rule.expression.match(shape, place)
        if found and found.end() > end:
            kind, best, end = rule.kind, found, found.end()
    stop = best.end(best.lastindex or 0)
    if kind == "skipped":
        return [], stop
    token = text[place:stop]
    return [_lower(_NORMALIZE.get(kind, str)(token))], stop - (kind == "period twice")


def _lower(token: str) -> str:
    """Java's lower case: a sigma is final if it is the last letter with case in its word, hyphens included."""
    return _SIGMA_WORD.sub(lambda word: _lower_sigma(word[0]), token).lower() if "Σ" in token else token.lower()


def _lower_sigma(word: str) -> str:
    cased = [place for place, letter in enumerate(word) if letter.lower() != letter.upper()]
    final = cased[-1] if len(cased) > 1 and word[cased[-1]] == "Σ" else -1
    return "".join("ς" if place == final else "σ" if letter == "Σ" else letter for place, letter in enumerate(word))


def _quotes(single: str, double: str) -> Callable[[str], str]:
    """Quotes in LaTeX's manner; the straight ones become the two given."""
    straight = {"'": single, "&apos;": single, '"': double, "&quot;": double}
    curly = {**dict.fromkeys("\x91‘‛‹", "`"), **dict.fromkeys("\x92’›", "'")}
    curly |= {**dict.fromkeys("\x93“«", "``"), **dict.fromkeys("\x94”»", "''")}
    table = straight | curly
    pattern = re.compile("|".join(table))
    return lambda token: pattern.sub(lambda found: table[found[0]], token)


_BRACKETS = str.maketrans({"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"})
_PARENTHESES = str.maketrans({" ": "\xa0", "(": "-LRB-", ")": "-RRB-"})
_CURRENCY = str.maketrans({"¢": "cents", "£": "#", **dict.fromkeys("\x80¤₠€", "$")})
_FRACTIONS = str.maketrans({"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"})

# What becomes of a token, by the kind of its rule; tokens of other kinds stay as they are.
_NORMALIZE: dict[str, Callable[[str], str]] = {
    "word": lambda token: token.replace("\xad", "") or "-",
    "one piece": lambda token: token.replace(" ", "\xa0"),
    "ampersand": lambda token: re.sub("&amp;", "&", token, flags=re.IGNORECASE),
    "dash": lambda token: "--",
    "hyphens": lambda token: "--" if len(token) in (3, 4) else token,
    "dots": lambda token: "...",
    "left quote": _quotes("`", "``"),
    "quote": _quotes("'", "''"),
    "bracket": lambda token: token.translate(_BRACKETS),
    "parentheses": lambda token: token.translate(_PARENTHESES),
    "less": lambda token: "<",
    "greater": lambda token: ">",
    "fraction": lambda token: token.translate(_FRACTIONS),
    "currency": lambda token: token.translate(_CURRENCY),
}
