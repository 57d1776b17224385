"""CIDEr against worked examples, against coco-caption's numbers and, where it is installed, against coco-caption."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.cider import DocumentFrequencies, cider, document_frequencies, fingerprint
from eval.metrics.corpus import Corpus
from tests.test_bleu import CANDIDATES, REFERENCES, split

# What pycocoevalcap 1.2's Cider().compute_score returns for the examples of test_bleu.
TOTAL = 2.3477488920685654
PER_PICTURE = [3.169408922790773, 3.9300631746356256, 0.9781941897799653, 3.6610781731364654, 0.0]


def score(candidates, references, frequencies=None):
    return cider(Corpus(split(candidates), [split(own) for own in references]), frequencies)["CIDEr"]


def test_golden_numbers_of_coco_caption():
    found = score(CANDIDATES, REFERENCES)
    assert found.value == pytest.approx(TOTAL, abs=1e-9)
    assert list(found.per_picture_N) == pytest.approx(PER_PICTURE, abs=1e-9)


def test_by_hand():
    # Two pictures, every word in one of them: all weights are log 2. "a b" against "a c": unigrams 1/2, bigrams 0.
    found = score(["a b", "x"], [["a c"], ["y"]])
    assert list(found.per_picture_N) == pytest.approx([10 * 0.5 / 4, 0])


def test_length_is_punished_and_repetition_clipped():
    found = score(["a a a", "x"], [["a"], ["x"]])
    # min(3, 1) * 1 / (3 * 1), and two bigrams too many.
    assert found.per_picture_N[0] == pytest.approx(10 / 4 * (1 / 3) * math.exp(-(2**2) / (2 * 36)))


def test_a_word_of_every_picture_weighs_nothing():
    assert score(["a", "a"], [["a"], ["a"]]).value == 0


def test_document_frequencies_from_a_file_do_not_depend_on_the_set_that_is_scored(tmp_path):
    references = [split(own) for own in REFERENCES]
    path = tmp_path / "frequencies.json"
    document_frequencies(references, "t").save(path)
    read = DocumentFrequencies.load(path, "t")
    assert read.pictures == len(REFERENCES)
    assert read.frequencies["a"] == 4  # pictures, not places; the fifth says only "an"
    whole = score(CANDIDATES, REFERENCES, read)
    assert list(whole.per_picture_N) == pytest.approx(PER_PICTURE, abs=1e-9)
    part = score(CANDIDATES[:2], REFERENCES[:2], read)
    assert list(part.per_picture_N) == pytest.approx(PER_PICTURE[:2], abs=1e-9)
    assert score(CANDIDATES[:2], REFERENCES[:2]).value != pytest.approx(part.value, abs=1e-3)


def test_frequencies_of_another_tokeniser_are_refused(tmp_path):
    path = tmp_path / "frequencies.json"
    document_frequencies([[["a"]]], "theirs").save(path)
    with pytest.raises(ValueError, match="counted with the tokeniser 'theirs', not 'ours'"):
        DocumentFrequencies.load(path, "ours")
    path.write_text("[]")
    with pytest.raises(ValueError, match="no document frequencies"):
        DocumentFrequencies.load(path, "ours")


def test_another_set_of_references_has_another_fingerprint():
    assert fingerprint([[["a"]], [["b"]]]) == fingerprint([[["a"]], [["b"]]])
    assert fingerprint([[["a"]], [["b"]]]) != fingerprint([[["a"], ["b"]]])


words = st.lists(st.sampled_from("abcde"), max_size=9)
pictures = st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=4)), min_size=1, max_size=6)


@settings(max_examples=50)
@given(pictures)
def test_equals_coco_caption_itself(pairs):
    official = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed")
    candidates, references = map(list, zip(*pairs, strict=True))
    if not any(token for refs in references for tokens in refs for token in tokens):
        return  # coco-caption fails where no reference has a word
    total, each = official.Cider().compute_score(
        {n: [" ".join(tokens) for tokens in refs] for n, refs in enumerate(references)},
        {n: [" ".join(candidate)] for n, candidate in enumerate(candidates)},
    )
    mine = cider(Corpus(candidates, references))
    assert mine["CIDEr"].value == mine["CIDEr_D"].value == pytest.approx(total, abs=1e-9)
    assert list(mine["CIDEr"].per_picture_N) == pytest.approx(list(each), abs=1e-9)
