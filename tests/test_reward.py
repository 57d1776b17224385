"""Self-critical training: the reward on paper, the baseline, and that samples are what the loss takes them for."""

from __future__ import annotations

import math

import pytest
import torch

from captioner.vocabulary import END, PAD, START, UNKNOWN
from tests.conftest import tiny_network
from training.data import Batch
from training.loss import self_critical_loss
from training.reward import Reward, advantages, brevity, grams, sample, sampled_batch, sentence_bleu

A, B, C, D = 4, 5, 6, 7


def test_bleu_of_a_sentence_on_paper() -> None:
    own, reference = grams([A, B, C, END]), grams([A, B, D, END])
    # 3 of 4 words; then, one added to both: 1 + 1 of 3 + 1 pairs, 0 + 1 of 2 + 1 triples, 0 + 1 of 1 + 1 fours.
    assert sentence_bleu(own, [reference]) == pytest.approx((3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25)


def test_brevity_is_against_the_mean_length() -> None:
    short, references = grams([A, END]), [grams([A, B, C, END]), grams([A, END])]
    assert brevity(short, references) == pytest.approx(math.exp(1 - 3 / 2))
    assert brevity(references[0], references) == 1.0


def test_reward_is_highest_for_the_reference_and_ignores_what_every_picture_has() -> None:
    reward = Reward([[[A, B, END]], [[A, C, END]]])
    assert reward.rarity[(A,)] == 0.0
    assert reward.rarity[(B,)] == pytest.approx(math.log(2))
    # All four orders but the fourth exist in a three-word sentence, and each is equal to itself.
    assert reward(0, [A, B, END]) == pytest.approx(3 / 4 + 1)
    assert reward(0, [A, B, END]) > reward(0, [A, C, END]) > 0


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
    reward = Reward([[[A, B, END]], [[C, END]], [[D, A, B, END]]])
    batch = Batch([0, 1, 2], grid_BPC, torch.empty(0), torch.empty(0))
    samples, weights_BK, mean = sampled_batch(batch, network.decoder, grid_BPC, reward)
    assert weights_BK.sum(dim=1).abs().max() < 1e-5
    assert math.isfinite(mean)
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
