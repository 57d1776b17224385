"""The tokeniser against worked examples, a golden file, and coco-caption itself where Java and pycocoevalcap are there.

`python -m tests.test_ptb` writes the golden file anew.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.ptb import PUNCTUATION, ptb_tokenize
from tests.nasty import KINDS, nasty_captions

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
GOLDEN = Path(__file__).parent / "golden" / "ptb.json"

# Tokens of each caption, divided by single spaces.
EXAMPLES = {
    "A dog runs.": "a dog runs",
    "A man's dog isn't running, is it?": "a man 's dog is n't running is it",
    "They cannot; they're gonna, 'cause 'tis d'ye": "they can not they 're gon na 'cause 't is d'ye",
    "rock 'n' roll at 5 o'clock, y'all": "rock 'n' roll at 5 o'clock y' all",
    "the dogs' toys": "the dogs toys",
    # The list of punctuation names brackets in upper case, so they stay.
    "a (small) [red] {car}": "a -lrb- small -rrb- -lsb- red -rsb- -lcb- car -rcb-",
    "“Hi”, ‘she’ said -- she — she…": "hi she said she she",
    "\"Hi\" 'she' said ... what?!": "hi she said what ?!",
    # Spelling, slashes and asterisks are left alone; currencies and fractions are not.
    "colour theatre grey black/white *": "colour theatre grey black/white *",
    "£5 €6 5¢ $7 ½ 3/4": "# 5 $ 6 5 cents $ 7 1/2 3/4",
    "1 1/2 cups, 555-1234": "1\xa01/2 cups 555-1234",
    "call (555) 555-1234": "call -lrb-555-rrb-\xa0555-1234",
    "2 2nd 10:30 1,000.50 2-year-old 50%": "2 2nd 10:30 1,000.50 2-year-old 50 %",
    "Mr. X of St. Y in the U.S.": "mr. x of st. y in the u.s.",
    "She no. 5 etc. He said no.": "she no. 5 etc. he said no",
    "vitamin A. It is": "vitamin a it is",
    "vitamin A. it is": "vitamin a. it is",
    "A&P, AT&amp;T &lt;b&gt; <br /> & caf&eacute;": "a&p at&t < b > <br\xa0/> & caf&eacute;",
    "www.x.com/ab, http://x.org/?a=1. me@x.com @me #tag": "www.x.com/ab http://x.org/?a=1 me@x.com @me #tag",
    "photo.jpg :-) ;)": "photo.jpg :--rrb- ;-rrb-",
    "so\xadft 日本 naïve 😀 \x01\u200bdog": "soft 日本 naïve dog",
    "ΟΔΟΣ": "οδος",
    "one\ntwo  three\t": "one two three",
    "": "",
    " . ": "",
}


@pytest.mark.parametrize(("caption", "tokens"), EXAMPLES.items())
def test_worked_examples(caption, tokens):
    assert ptb_tokenize(caption) == (tokens.split(" ") if tokens else [])


def test_the_next_line_is_seen():
    assert ptb_tokenize("vitamin A.", "The dog") == ["vitamin", "a"]
    assert ptb_tokenize("vitamin A.", "the dog") == ["vitamin", "a."]
    assert ptb_tokenize("dog no.", "5 dogs") == ["dog", "no."]
    assert ptb_tokenize("dog no.", "five dogs") == ["dog", "no"]
    assert ptb_tokenize("a :D", None) == ["a", "d"]
    assert ptb_tokenize("a :D", "") == ["a", ":d"]


def test_golden_file():
    for caption, tokens in json.loads(GOLDEN.read_text()):
        assert " ".join(ptb_tokenize(caption)) == tokens, caption


texts = (
    st.text()
    | st.text("ab'’n.A,-&/1 <>\"=();é")
    | st.lists(st.sampled_from([*chain.from_iterable(KINDS.values())])).map("".join)
)


@given(texts, st.none() | texts)
def test_any_text_has_tokens_without_spaces_and_punctuation(caption, following):
    for token in ptb_tokenize(caption, following):
        assert token
        assert " " not in token
        assert token not in PUNCTUATION


plain_words = st.lists(st.sampled_from(["a", "dog", "Cannot", "gonna", "No", "Mr", "etc", "x"]))


@given(plain_words, st.sampled_from(["", ".", " .", " "]))
def test_the_short_cut_for_plain_captions_gives_what_the_rules_give(words, end):
    caption = " ".join(words) + end
    assert ptb_tokenize(caption) == ptb_tokenize(caption + " \u200b")  # dropped, but no plain caption


def real_captions() -> list[str]:
    captions: list[str] = []
    for name in ("coco_mini/annotations/captions_*.json", "flickr8k/captions_*.json"):
        for path in sorted(SHARED.glob(name)):
            captions += [entry["caption"] for entry in json.loads(path.read_text())["annotations"]]
    for path in sorted(SHARED.glob("*/questions_*.json")):
        captions += [entry["question"] for entry in json.loads(path.read_text())["questions"]]
    return captions


def official_tokens(captions: list[str]) -> list[str]:
    """coco-caption's own answer: the tokens of each caption with spaces between, all captions in one file."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed")
    if not shutil.which("java"):
        pytest.skip("java is not installed")
    found = tokenizer.PTBTokenizer().tokenize({n: [{"caption": caption}] for n, caption in enumerate(captions)})
    return [found[n][0] for n in range(len(captions))]


def differences(captions: list[str]) -> list[tuple[str, str, str]]:
    lines = [caption.replace("\n", " ") for caption in captions]
    following = ["\n".join(lines[n + 1 : n + 4]) for n in range(len(lines) - 1)] + [None]
    mine = [" ".join(ptb_tokenize(*pair)) for pair in zip(lines, following, strict=True)]
    # A smiley such as "=.[^x=  <>]" may hold two spaces; they are one here.
    theirs = [re.sub(" +", " ", tokens) for tokens in official_tokens(captions)]
    return [row for row in zip(captions, mine, theirs, strict=True) if row[1] != row[2]]


def test_real_captions_are_as_coco_caption_has_them():
    captions = real_captions()
    if not captions:
        pytest.skip(f"{SHARED} is not here")
    assert differences(captions) == []


@pytest.mark.parametrize(("count", "seed"), [(2000, 0), (20000, 1)])
def test_nasty_captions_are_as_coco_caption_has_them(count, seed):
    assert differences(nasty_captions(count, seed)) == []


def write_golden() -> None:
    odd = [caption for caption in real_captions() if re.search(r"[^A-Za-z ,.?]|\.[^ ]", caption)]
    captions = [*EXAMPLES, *random.Random(0).sample(odd, 500), *nasty_captions(600, 7)]
    # A plain line after each, for none to see the next one.
    tokens = official_tokens([line for caption in captions for line in (caption, "x")])[::2]
    rows = [json.dumps(row, ensure_ascii=True) for row in zip(captions, tokens, strict=True)]
    GOLDEN.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    write_golden()
