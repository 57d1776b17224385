"""Self-critical training: the reward on paper, the baseline, and that samples are what the loss takes them for."""

from __future__ import annotations

import math

import pytest
import torch

from captioner.vocabulary import END, PAD, START, UNKNOWN
from tests.conftest import tiny_network
from training.data import Batch
from training.loss import self_critical_loss
from training.reward import References, advantages, bleu, rewards, sample, sampled_batch

A, B, C, D = 4, 5, 6, 7


def test_counts_of_a_sample_on_paper() -> None:
    references = References([[[A, B, C, END], [A, B, A, D, A, END]], [[D, END]]])
    *matches_and_totals, length, closest, _ = references.counts(0, [A, A, B, C, END])
    # All five words (A twice is in one caption); AB, BC, C<end>; ABC, BC<end>; ABC<end>.
    assert matches_and_totals == [5, 3, 2, 1, 5, 4, 3, 2]
    assert (length, closest) == (5, 4)  # 4 and 6 are equally close: the shorter one


def test_cider_is_highest_for_the_reference_and_ignores_what_every_picture_has() -> None:
    references = References([[[A, B, END]], [[A, C, END]]])
    assert references.rarity[(A,)] == 0.0
    assert references.rarity[(B,)] == pytest.approx(math.log(2))
    # All four orders but the fourth exist in a three-word sentence, and each is equal to itself.
    assert references.counts(0, [A, B, END])[-1] == pytest.approx(3 / 4)
    assert 3 / 4 > references.counts(0, [A, D, END])[-1] == 0.0


def some_counts(length: int) -> torch.Tensor:
    """Three samples of a length each a word longer than the last, against references of 6 words."""
    samples = [[5.0, 3, 2, 1], [4.0, 2, 1, 0], [3.0, 2, 0, 0]]
    lengths = [length, length + 1, length + 2]
    rows = [
        [*m, *(n - i for i in range(4)), n, 6, 0.2 * k] for k, (m, n) in enumerate(zip(samples, lengths, strict=True))
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("length", [5, 4, 8], ids=["as_long", "too_short", "too_long"])
def test_a_sample_is_worth_what_it_adds_to_the_logarithm_of_bleu(length: int) -> None:
    counts_NX = some_counts(length) + torch.tensor([0.0] * 9 + [1e-4, 0.0])  # away from the brevity penalty's kink
    often_N = torch.ones(3, requires_grad=True)
    total_X = (often_N[:, None] * counts_NX).sum(dim=0)
    log_bleu = (total_X[:4] / total_X[4:8]).log().mean() + (1 - total_X[9] / total_X[8]).clamp(max=0)
    assert bleu(counts_NX) == pytest.approx(log_bleu.exp().item(), rel=1e-5)
    log_bleu.backward()  # type: ignore[no-untyped-call]
    assert often_N.grad is not None
    cider_N = counts_NX[:, 10] / counts_NX[:, 10].mean()
    torch.testing.assert_close(rewards(counts_NX), 3 * often_N.grad + cider_N)


def test_a_batch_without_a_match_has_finite_rewards() -> None:
    counts_NX = some_counts(5)
    counts_NX[:, [0, 1, 2, 3, 10]] = 0.0
    assert rewards(counts_NX).isfinite().all()
    assert 0 <= bleu(counts_NX) < 1e-8


def test_advantages_compare_with_the_siblings_mean() -> None:
    assert advantages(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[1 - 4, 2 - 3.5, 6 - 1.5]]


def test_samples_start_end_and_hold_no_marks() -> None:
    network = tiny_network()
    torch.manual_seed(0)
    words_BKT = sample(network.decoder, torch.randn(4, 9, 256))
    assert (words_BKT[:, :, 0] == START).all()
    for words in words_BKT.flatten(0, 1).tolist():
        end = words.index(END)
        assert not {PAD, START, UNKNOWN} & set(words[1:end])
        assert set(words[end + 1 :]) <= {PAD}


def test_loss_weighs_each_caption_s_log_probability() -> None:
    network = tiny_network()
    torch.manual_seed(0)
    grid_BPC = torch.randn(3, 9, 256)
    references = References([[[A, B, END]], [[C, END]], [[D, A, B, END]]])
    batch = Batch([0, 1, 2], grid_BPC, torch.empty(0), torch.empty(0))
    samples, weights_BK, mean = sampled_batch(batch, network.decoder, grid_BPC, references)
    assert weights_BK.sum(dim=1).abs().max() < 1e-5
    assert 0 <= mean <= 1
    with torch.no_grad():
        taught = network.decoder.teach(samples.images_B, samples.words_BKT, samples.lengths_BK)
        loss = self_critical_loss(taught, weights_BK)
        total = torch.zeros(())
        for b in range(3):
            for k in range(weights_BK.shape[1]):
                one = network.decoder.teach(
                    samples.images_B[b : b + 1],
                    samples.words_BKT[b : b + 1, k : k + 1],
                    samples.lengths_BK[b : b + 1, k : k + 1],
                )
                log_prob = one.scores_MV.log_softmax(1).gather(1, one.targets_M[:, None]).sum()
                total = total - weights_BK[b, k] * log_prob
    assert loss.item() == pytest.approx(total.item() / len(taught.targets_M), rel=1e-4, abs=1e-6)
