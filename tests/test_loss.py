"""What training lowers and how far it steps, by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from captioner.model.decoder import Taught
from tests.conftest import ANSWERS, TINY, TINY_ANSWERER, tiny_network
from training.data import Batch
from training.loop import _Run, clip, parameter_groups
from training.loss import TrainingLoss, caption_loss
from training.questions import QuestionBatch
from training.recipes import scenes
from training.steps import Step


def taught(looked=None):
    """Two words out of three: p = (.7, .2, .1) where the first is true, and (.5, .25, .25) where the second is."""
    scores_MV = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]).log() + 3.0  # softmax takes the 3 away
    return Taught(
        scores_MV, torch.tensor([0, 1]), torch.tensor([0, 0]), None if looked is None else torch.tensor(looked)
    )


def test_cross_entropy_per_word():
    assert caption_loss(taught(), 0.0, 0.1).item() == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)


def test_label_smoothing_spreads_its_share_over_all_words():
    # 0.3 over three words: the true one is wanted with 0.7 + 0.1, the others with 0.1 each.
    first = 0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1)
    second = 0.1 * math.log(0.5) + 0.8 * math.log(0.25) + 0.1 * math.log(0.25)
    assert caption_loss(taught(), 0.3, 0.0).item() == pytest.approx(-(first + second) / 2)


def test_doubly_stochastic_penalty():
    # Looked at over a whole caption of two words: (1.5, 0.5) misses 1 by 0.25 + 0.25; spread over two words, times 0.1.
    plain = caption_loss(taught(), 0.0, 0.0).item()
    assert caption_loss(taught([[[1.5, 0.5]]]), 0.0, 0.1).item() == pytest.approx(plain + 0.1 * 0.5 / 2)
    assert caption_loss(taught([[[1.0, 1.0]]]), 0.0, 0.1).item() == pytest.approx(plain)


def test_a_caption_that_is_not_there_is_not_penalised():
    plain = caption_loss(taught(), 0.0, 0.0).item()
    looked = [[[1.5, 0.5]], [[0.0, 0.0]]]
    assert caption_loss(taught(looked), 0.0, 0.1).item() == pytest.approx(plain + 0.1 * 0.5 / 2)


@pytest.mark.parametrize("kind", ["attention", "product"])
def test_entropy_of_attention_counts_by_its_weight(kind):
    answerer = replace(TINY_ANSWERER, kind=kind)
    network = tiny_network(replace(TINY, captions=False, answerer=answerer)).eval()
    grid_BPC = torch.rand(1, network.grid[0] * network.grid[1], network.grid[2])
    questions = QuestionBatch(grid_BPC, torch.tensor([[[5, 6]]]), torch.eye(len(ANSWERS))[None, :1])
    with torch.no_grad():
        found = network.answerer(grid_BPC, questions.question_BKQ)
        plain, weighed = (
            TrainingLoss(network, 0.0, entropy_weight=weight).eval()(Step(questions=questions)).item()
            for weight in (0.0, 0.5)
        )
    entropy = 0.0 if found.attention_BKP is None else torch.special.entr(found.attention_BKP).sum().item()
    assert weighed == pytest.approx(plain + 0.5 * entropy)


@pytest.mark.parametrize("attention", ["soft", "none"])
def test_pictures_with_fewer_captions_count_by_their_words(attention):
    network = tiny_network(replace(TINY, attention=attention))
    loss = TrainingLoss(network, 0.1, 0.1).eval()
    grid_BPC = torch.rand(2, network.grid[0] * network.grid[1], network.grid[2])
    words_BKT = torch.tensor([[[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]], [[1, 9, 5, 2, 0], [0, 0, 0, 0, 0]]])
    lengths_BK = torch.tensor([[4, 2], [3, 0]])
    with torch.no_grad():
        both = loss(Step(Batch([0, 1], grid_BPC, words_BKT, lengths_BK))).item()
        first = loss(Step(Batch([0], grid_BPC[:1], words_BKT[:1], lengths_BK[:1]))).item()
        second = loss(Step(Batch([1], grid_BPC[1:], words_BKT[1:, :1, :4], lengths_BK[1:, :1]))).item()
    assert both == pytest.approx((6 * first + 3 * second) / 9, rel=1e-5)


def gradients(*values):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return parameters


@pytest.mark.parametrize(
    ("norm", "value", "clipped"),
    [
        (1.0, None, [0.6, -0.8]),  # the norm of (3, -4) is 5: without the square root it would be 25
        (10.0, None, [3.0, -4.0]),
        (None, 3.5, [3.0, -3.5]),
        (None, 1.0, [1.0, -1.0]),
        (2.5, 3.0, [2.5 / math.sqrt(2), -2.5 / math.sqrt(2)]),  # first by value, then by norm
        (None, None, [3.0, -4.0]),
    ],
)
def test_clipping(norm, value, clipped):
    parameters = gradients(3.0, -4.0)
    clip(parameters, norm, value)
    assert [parameter.grad.item() for parameter in parameters] == pytest.approx(clipped, rel=1e-5)


def test_the_norm_is_that_of_all_gradients_together():
    parameters = gradients(1.0, 2.0, 2.0, 4.0)  # 25 under the root
    clip(parameters, 2.5, None)
    assert [parameter.grad.item() for parameter in parameters] == pytest.approx([0.5, 1.0, 1.0, 2.0], rel=1e-5)


def rates(step, **settings):
    """Of decoder and encoder at a step, where an epoch has five and the highest are 0.2 and 0.01."""
    groups = [{"peak": 0.2}, {"peak": 0.01}]
    recipe = replace(scenes(), learning_rate=0.2, encoder_learning_rate=0.01, **settings)
    optimizer = SimpleNamespace(param_groups=groups)
    _Run._set_learning_rates(
        SimpleNamespace(
            recipe=recipe,
            steps=range(5),
            step=step,
            optimizer=optimizer,
            first_self_critical=5 * recipe.epochs,
            self_critical=step >= 5 * recipe.epochs,
        )
    )
    return [group["lr"] for group in groups]


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.25),  # the first of four steps of warm-up, at the cosine's top
        (2, 0.75 * 0.5 * (1 + math.cos(math.pi / 10))),
        (10, 0.5),  # half way
        (15, 0.5 * (1 - math.sqrt(0.5))),
        (19, 0.5 * (1 - math.cos(math.pi / 20))),
    ],
)
def test_learning_rate_warms_up_and_falls_as_a_cosine(step, share):
    assert rates(step, epochs=4, warmup_steps=4) == pytest.approx([0.2 * share, 0.01 * share])


def test_without_warm_up_the_first_step_is_the_highest():
    assert rates(0, epochs=4, warmup_steps=0) == [0.2, 0.01]


@pytest.mark.parametrize(("step", "share"), [(20, 0.25), (22, 0.75 * 0.5 * (1 + math.cos(math.pi / 5))), (25, 0.5)])
def test_self_critical_epochs_start_again_from_their_own_peak(step, share):
    settings = {"epochs": 4, "warmup_steps": 9, "self_critical_epochs": 2, "self_critical_learning_rate": 0.02}
    settings |= {"self_critical_warmup_steps": 4}
    assert rates(step, **settings) == pytest.approx([0.02 * share, 0.001 * share])


def test_matrices_decay_biases_do_not_and_frozen_encoders_do_not_train():
    network = tiny_network()
    recipe = replace(scenes(), weight_decay=0.02, learning_rate=1e-3, encoder_learning_rate=1e-5)
    frozen = parameter_groups(recipe, network)
    assert [(group["peak"], group["weight_decay"]) for group in frozen] == [(1e-3, 0.02), (1e-3, 0.0)]
    assert {p.dim() for p in frozen[1]["params"]} == {1}
    assert len(frozen[0]["params"]) + len(frozen[1]["params"]) == len(list(network.decoder.parameters()))
    network.encoder.fine_tune_from("all")
    peaks = [(group["peak"], group["weight_decay"]) for group in parameter_groups(recipe, network)]
    assert peaks == [(1e-3, 0.02), (1e-3, 0.0), (1e-5, 0.02), (1e-5, 0.0)]
