"""Text to tokens: worked examples, each as the Stanford tokeniser and coco-caption have it, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.tokens import CLITICS, sentence, tokenize

EXAMPLES = {
    "A dog runs.": "a dog runs",
    "A man's dog isn't running.": "a man 's dog is n't running",
    "A well-dressed woman, in a black/white T-shirt!": "a well-dressed woman in a black/white t-shirt",
    "She's 5'6\" tall, and he'll wait at 10:30.": "she 's 5 6 tall and he 'll wait at 10:30",
    "It costs $3.50 or 1,000 dollars... maybe?": "it costs $ 3.50 or 1,000 dollars maybe",
    "the dogs' toys": "the dogs toys",
    "They cannot see; they're gonna jump.": "they can not see they 're gon na jump",
    "Kids don't know what they've done & why.": "kids do n't know what they 've done & why",
    "a 3/4 view -- of the man’s “hat”": "a 3/4 view of the man 's hat",
    "clock at 5 o'clock": "clock at 5 o'clock",
    "a 2-year-old on a 4x4": "a 2-year-old on a 4x4",
    "50% of the birds": "50 % of the birds",
    "café crème brûlée": "café crème brûlée",
    "women's   restroom\tsign\n": "women 's restroom sign",
    "A U.S. flag": "a u.s. flag",
    "O'Brien can't and won't": "o'brien ca n't and wo n't",
    "man in #23 jersey": "man in # 23 jersey",
    "a dog,a cat": "a dog a cat",
    "": "",
    "...": "",
}


@pytest.mark.parametrize(("text", "tokens"), EXAMPLES.items())
def test_worked_examples(text, tokens):
    assert tokenize(text) == tokens.split()


def test_people_write_clitics_onto_words():
    assert sentence(["a", "man", "'s", "dog", "is", "n't", "there"]) == "a man's dog isn't there"
    assert sentence(["'s", "n't"]) == "'s n't"  # not a word of anybody's, but a model may say it
    assert sentence([]) == ""


pieces = st.sampled_from(
    ["man", "dogs", "can", "not", "don't", "5", "1.5", "#", "'", "-", ".", "(", "’", "&", *CLITICS]
)
texts = st.text() | st.text("ab'’nts m.-,&/1!\" _é") | st.lists(pieces).map(" ".join) | st.lists(pieces).map("".join)


@given(texts)
def test_there_and_back(text):
    tokens = tokenize(text)
    assert tokenize(sentence(tokens)) == tokens


@given(texts)
def test_tokens_are_lower_case_words_without_spaces(text):
    for token in tokenize(text):
        assert token
        assert not any(letter.isspace() for letter in token)
        assert token == token.lower()
