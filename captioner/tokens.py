"""Text to the words of a vocabulary and back, one way for training and serving.

Penn Treebank conventions: lower case, clitics split off ("isn't" -> "is n't", "man's" -> "man 's"), hyphenated words
whole, punctuation dropped. What is scored are the tokens of coco-caption (eval.metrics.ptb), which keep brackets as
"-lrb-" and some periods: nothing that a model should learn to say. On 90,838 real captions and questions 20 differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What coco-caption's tokeniser drops after tokenising (ptbtokenizer.py, PUNCTUATIONS).
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
CLITICS = ("'s", "'m", "'d", "'ll", "'re", "'ve", "n't")
WHOLE = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me"}

_TOKEN = re.compile(
    r"\d+(?:[.,:/]\d+)+|(?:[^\W\d_]\.){2,}|[\w][\w&]*(?:['’][^\W\d_]+)?(?:[-/][\w]+(?:['’][^\W\d_]+)?)*"
    r"|['’](?:s|m|d|ll|re|ve)\b|[^\w\s]"
)
_CLITIC = re.compile(r"^(.+?)(n't|'(?:s|m|d|ll|re|ve))$")
_DROPPED = frozenset('()[]{}"“”‘’´«»…–—')


def tokenize(text: str) -> list[str]:
    """Tokens of a caption or question, lower case, without punctuation."""
    tokens: list[str] = []
    for token in _TOKEN.findall(text.lower()):
        token = token.replace("’", "'")
        if token in WHOLE:
            tokens += WHOLE[token].split()
        elif match := _CLITIC.match(token):
            tokens += match.groups()
        elif token not in PUNCTUATION and token not in _DROPPED:
            tokens.append(token)
    return tokens


def sentence(tokens: Iterable[str]) -> str:
    """Tokens as a person writes them; tokenize(sentence(x)) == x for every x that tokenize returns."""
    text = previous = ""
    for token in tokens:
        # A clitic is written onto its word, unless the two would read as something else ("'s" and "n't").
        glued = token in CLITICS and previous not in CLITICS and tokenize(previous + token) == [previous, token]
        text += token if not text or glued else f" {token}"
        previous = token
    return text
