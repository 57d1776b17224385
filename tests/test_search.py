"""Beam search against examples on paper, exhaustive search, greedy search and itself.

Shapes: B pictures, K beams, T steps, V words, P grid cells, S state.
"""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.config import ModelConfig
from captioner.model.decoder import Decoder
from captioner.model.search import NEVER, BeamSearch, Found, inputs
from captioner.vocabulary import END, PAD, START, UNKNOWN

MARKS = 4
POWERS = st.sampled_from([0.0, 0.5, 0.7, 1.0, 2.0])
SEEDS = st.integers(0, 2**32 - 1)


class Told:
    """In place of a decoder: next(picture, words so far) gives the log-probabilities; the state is the words so far.

    It looks at two cells, at the first with as many parts as the number of the word before.
    """

    def __init__(self, following, longest: int):
        self.following, self.longest, self.attend, self.steps = following, longest, True, 0

    def start(self, grid_BPC):
        state_BS = torch.cat([grid_BPC[:, 0, :1], grid_BPC.new_zeros(grid_BPC.shape[0], self.longest)], dim=1)
        return SimpleNamespace(grid_BPF=grid_BPC), state_BS

    def step(self, t, words_BK, state_BKS, memory):
        self.steps += 1
        if t > 0:
            state_BKS = state_BKS.clone()
            state_BKS[:, :, int(t)] = words_BK.float()
        beams = [[[int(x) for x in state[: int(t) + 1]] for state in states] for states in state_BKS]
        rows = [[self.following(said[0], tuple(said[1:])) for said in row] for row in beams]
        where_BKP = torch.stack([words_BK, 100 - words_BK], dim=2) / 100
        return torch.tensor(np.array(rows), dtype=torch.float32), state_BKS, where_BKP


def look(told: Told, vocabulary: int, beams: int, power: float = 0.0, wanted: int = 1, pictures=(0,)) -> Found:
    search = BeamSearch(told, vocabulary)
    grid_BPC = torch.tensor(pictures, dtype=torch.float32)[:, None, None].expand(-1, 2, 1)
    found = search(grid_BPC, *inputs(beams, told.longest, power, wanted))
    real_BK = found.log_probs_BK > NEVER / 10
    shown_BKT = (found.words_BKT != PAD) & real_BK[:, :, None]
    before_BKT = torch.cat([torch.full_like(found.words_BKT[:, :, :1], START), found.words_BKT[:, :, :-1]], dim=2)
    torch.testing.assert_close(found.attention_BKTP[..., 0][shown_BKT], before_BKT[shown_BKT] / 100)
    torch.testing.assert_close(found.word_log_probs_BKT.sum(2)[real_BK], found.log_probs_BK[real_BK])
    return found


def sentences(found: Found, picture: int = 0, wanted: int | None = None) -> list[tuple[int, ...]]:
    """Words of the real ones of the wanted, END included, best first; after END there is only padding."""
    out = []
    for words_T, log_prob in zip(found.words_BKT[picture].tolist(), found.log_probs_BK[picture], strict=True):
        if log_prob > NEVER / 10 and len(out) != wanted:
            length = words_T.index(END) + 1 if END in words_T else len(words_T)
            assert set(words_T[length:]) <= {PAD}
            assert not {PAD, START, UNKNOWN} & set(words_T[:length])
            out.append(tuple(words_T[:length]))
    return out


def random_model(seed: int, vocabulary: int, history: int = 3):
    """Log-probabilities that depend on the picture, on the word before and a little on all words before."""
    table = np.log(np.random.default_rng(seed).dirichlet(np.ones(vocabulary), (2, history, vocabulary)))

    def following(picture, said):
        return table[picture, sum(said) % history, said[-1] if said else START]

    return following


def exhaustive(following, vocabulary: int, longest: int, power: float, picture: int = 0):
    """Every possible sentence with its log-probability and score, best first."""
    out = []
    for length in range(longest + 1):
        for said in product(range(MARKS, vocabulary), repeat=length):
            whole = said if length == longest else (*said, END)
            log_prob = sum(following(picture, whole[:n])[word] for n, word in enumerate(whole))
            out.append((log_prob / len(whole) ** power, log_prob, whole))
    return sorted(out, reverse=True)


MAN, STRAW, HAT, WITH = range(MARKS, MARKS + 4)
LECTURE = {
    (): {MAN: 0.2, STRAW: 0.1},
    (MAN,): {WITH: 0.3},
    (STRAW,): {HAT: 0.3},
    (MAN, WITH): {STRAW: 0.1},
    (STRAW, HAT): {END: 0.3},
    (MAN, WITH, STRAW): {HAT: 0.6},
    (MAN, WITH, STRAW, HAT): {END: 0.1},
}
SHORT, LONG = (STRAW, HAT, END), (MAN, WITH, STRAW, HAT, END)


def lecture(_, said):
    """What the lecture leaves out is left to <unk>, which is never said."""
    p = np.full(8, 1e-9)
    for word, share in LECTURE.get(said, {}).items():
        p[word] = share
    p[UNKNOWN] = 1 - p.sum() + 1e-9
    return np.log(p)


@pytest.mark.parametrize(
    ("steps", "best", "second"),
    [
        (1, ((MAN,), 0.2), ((STRAW,), 0.1)),
        (2, ((MAN, WITH), 0.06), ((STRAW, HAT), 0.03)),
        (3, (SHORT, 0.009), ((MAN, WITH, STRAW), 0.006)),
        (4, (SHORT, 0.009), ((MAN, WITH, STRAW, HAT), 0.0036)),
        (5, (SHORT, 0.009), (LONG, 0.00036)),
    ],
)
def test_lecture_example_of_two_beams(steps, best, second):
    found = look(Told(lecture, steps), 8, 2, wanted=2)
    assert sentences(found) == [best[0], second[0]]
    assert found.log_probs_BK[0].exp().tolist() == pytest.approx([best[1], second[1]], rel=1e-4)


def test_lecture_example_word_by_word():
    found = look(Told(lecture, 5), 8, 2, wanted=2)
    assert found.word_log_probs_BKT[0, 0].exp().tolist() == pytest.approx([0.1, 0.3, 0.3, 1, 1])
    assert found.word_log_probs_BKT[0, 1].exp().tolist() == pytest.approx([0.2, 0.3, 0.1, 0.6, 0.1])


@pytest.mark.parametrize(
    ("power", "order", "scores"),
    [
        (0.0, [SHORT, LONG], [-4.7105, -7.9294]),  # ln .009, ln .00036
        (1.0, [SHORT, LONG], [-1.5702, -1.5859]),  # the same / 3 and / 5: the end mark counts, and just decides it
        (2.0, [LONG, SHORT], [-0.3172, -0.5234]),  # / 9 and / 25
    ],
)
def test_lecture_example_depends_on_the_length_rule(power, order, scores):
    found = look(Told(lecture, 5), 8, 2, power, wanted=2)
    assert sentences(found) == order
    assert found.scores_BK[0].tolist() == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(("power", "steps"), [(0.0, 3), (1.0, 5)])
def test_stops_as_soon_as_the_best_is_certain(power, steps):
    """After "straw hat <end>" at .009, "man with straw" at .006 cannot win, unless length is forgiven."""
    told = Told(lecture, 30)
    assert sentences(look(told, 8, 2, power), 0, 1) == [SHORT]
    assert told.steps == steps


def test_the_likeliest_words_are_kept():
    """A published beam search takes argsort(p)[:-k][::-1] and so drops the best words."""
    p = np.array([0.05, 0.1, 0.2, 0.25, 0.4])
    assert np.argsort(p)[:-2][::-1][:2].tolist() == [2, 1]
    log_probs = np.concatenate([np.full(MARKS, -30.0), np.log(p)])
    found = look(Told(lambda picture, said: log_probs, 1), 9, 2, wanted=2)
    assert sentences(found) == [(MARKS + 4,), (MARKS + 3,)]
    assert found.log_probs_BK[0].exp().tolist() == pytest.approx([0.4, 0.25])


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(5, 7), st.integers(1, 4), POWERS)
def test_equals_exhaustive_search_if_nothing_is_pruned(seed, vocabulary, longest, power):
    following = random_model(seed, vocabulary)
    best = exhaustive(following, vocabulary, longest, power)
    told = Told(following, longest)
    found = look(told, vocabulary, len(best) + 2, power, wanted=len(best))
    got = sentences(found)
    assert sorted(got) == sorted(whole for _, _, whole in best)
    assert (found.log_probs_BK[0, len(best) :] < -1e8).all()  # fewer sentences than beams
    by_words = {whole: (score, log_prob) for score, log_prob, whole in best}
    for n, whole in enumerate(got):  # rank by rank the same score, whatever the order of equals
        assert float(found.scores_BK[0, n]) == pytest.approx(best[n][0], abs=1e-4)
        assert float(found.scores_BK[0, n]) == pytest.approx(by_words[whole][0], abs=1e-4)
        assert float(found.log_probs_BK[0, n]) == pytest.approx(by_words[whole][1], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(5, 7), st.integers(1, 6), POWERS, st.integers(1, 5), st.data())
def test_stopping_early_changes_nothing(seed, vocabulary, longest, power, beams, data):
    wanted = data.draw(st.integers(1, beams))
    following = random_model(seed, vocabulary)
    early = look(Told(following, longest), vocabulary, beams, power, wanted)
    late = look(Told(following, longest), vocabulary, beams, power, beams)
    assert sentences(early, 0, wanted) == sentences(late, 0, wanted)
    torch.testing.assert_close(early.scores_BK[:, :wanted], late.scores_BK[:, :wanted])
    torch.testing.assert_close(early.word_log_probs_BKT[:, :wanted], late.word_log_probs_BKT[:, :wanted])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(5, 7), st.integers(1, 5), POWERS, st.integers(1, 4), st.data())
def test_batch_of_n_equals_n_batches_of_one(seed, vocabulary, longest, power, beams, data):
    wanted = data.draw(st.integers(1, beams))
    following = random_model(seed, vocabulary)
    pictures = (0, 1, 1, 0)
    batch = look(Told(following, longest), vocabulary, beams, power, wanted, pictures)
    for n, picture in enumerate(pictures):
        one = look(Told(following, longest), vocabulary, beams, power, wanted, (picture,))
        assert sentences(batch, n, wanted) == sentences(one, 0, wanted)
        torch.testing.assert_close(batch.scores_BK[n, :wanted], one.scores_BK[0, :wanted])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(5, 9), st.integers(1, 8), POWERS)
def test_one_beam_is_greedy_search(seed, vocabulary, longest, power):
    following = random_model(seed, vocabulary)
    said, log_prob = (), 0.0
    while len(said) < longest and END not in said:
        row = following(0, said)
        word = max([END, *range(MARKS, vocabulary)], key=lambda w: row[w])
        said, log_prob = (*said, word), log_prob + row[word]
    found = look(Told(following, longest), vocabulary, 1, power)
    assert sentences(found) == [said]
    assert float(found.log_probs_BK) == pytest.approx(log_prob, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3, 7])
def test_always_returns_something_when_nothing_ends(beams):
    """Another beam search fails on an empty list where no hypothesis ended in 50 steps."""
    log_probs = np.log([0.2, 0.2, 1e-30, 0.2, 0.25, 0.15])
    found = look(Told(lambda picture, said: log_probs, 50), 6, beams, 0.7, wanted=beams)
    assert sentences(found)[0] == (4,) * 50
    assert float(found.log_probs_BK[0, 0]) == pytest.approx(50 * math.log(0.25), rel=1e-5)
    assert len(set(sentences(found))) == beams


def tiny_search() -> BeamSearch:
    config = ModelConfig(attention="soft", hidden_size=16, embed_size=8, feature_size=8, attention_size=4)
    torch.manual_seed(0)
    decoder = Decoder(config, (2, 3, 5), 12).eval()
    with torch.no_grad():
        decoder.embed.weight *= 6
    return BeamSearch(decoder, 12)


def test_marks_are_never_said_however_likely():
    search = tiny_search()
    with torch.no_grad():
        search.decoder.words.bias[[PAD, START, UNKNOWN]] = 30.0
    found = search(torch.randn(2, 6, 5), *inputs(5, 8, 0.0, 5))
    assert all(len(sentences(found, n)) == 5 for n in range(2))  # sentences() looks for the marks


def test_a_real_decoder_in_batches_of_one():
    search = tiny_search()
    grid_BPC, options = torch.randn(5, 6, 5), inputs(4, 10, 0.7, 4)
    batch = search(grid_BPC, *options)
    assert batch.attention_BKTP.shape == (5, 4, 10, 6)
    for n in range(5):
        one = search(grid_BPC[n : n + 1], *options)
        assert sentences(one) == sentences(batch, n)
        torch.testing.assert_close(one.scores_BK[0], batch.scores_BK[n])
