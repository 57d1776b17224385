"""The networks that answer questions: their equations on paper, padding, empty questions, candidates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captioner.config import AnswererConfig, AnswererKind, ModelConfig
from captioner.model.answerer import Answerer
from captioner.model.questions import BagReader, LstmReader

KINDS = get_args(AnswererKind)
GRID = (2, 3, 5)
SMALL = AnswererConfig(embed_size=6, hidden_size=4, fusion_size=8, attention_size=4)
CANDIDATES = torch.tensor([[3, 0], [4, 5], [6, 0]])


def network(kind: str, seed: int = 0, **changes: object) -> Answerer:
    torch.manual_seed(seed)
    return Answerer(replace(SMALL, kind=kind, **changes), GRID, words=12, answers=3).eval()


def ask(answerer: Answerer, grid_BPC: torch.Tensor, question_BKQ: torch.Tensor, history=None) -> torch.Tensor:
    with torch.inference_mode():
        return answerer(grid_BPC, question_BKQ, history, CANDIDATES).scores_BKA


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_network_looks_at(kind):
    answerer, random = network(kind), torch.Generator().manual_seed(1)
    grid_BPC = torch.rand(2, 6, 5, generator=random)
    same_picture, same_question = grid_BPC[:1].repeat(2, 1, 1), torch.tensor([[[3, 4, 5]], [[3, 4, 5]]])
    by_picture = ask(answerer, grid_BPC, same_question)
    by_question = ask(answerer, same_picture, torch.tensor([[[3, 4, 5]], [[6, 7, 0]]]))
    assert torch.allclose(by_picture[0], by_picture[1]) == (kind == "question_only")
    assert torch.allclose(by_question[0], by_question[1]) == (kind == "picture_only")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(words=st.lists(st.integers(1, 11), max_size=6), padding=st.integers(0, 5))
def test_padding_and_company_change_nothing(kind, words, padding):
    answerer = network(kind)
    grid_BPC = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(2))
    alone = ask(answerer, grid_BPC, torch.tensor([[words or [0]]]))
    row = torch.tensor(words + [0] * (8 + padding - len(words)))
    company = ask(answerer, grid_BPC, torch.stack([torch.arange(1, 9 + padding).clamp(max=11), row])[None])
    torch.testing.assert_close(company[0, 1], alone[0, 0], rtol=1e-5, atol=1e-6)
    assert alone.isfinite().all()


def test_product_on_paper():
    """u = (0, 0) where there are no words, so tanh(W_q u + b) is tanh(b); |v| = 5 for a mean cell (3, 4)."""
    answerer = Answerer(replace(SMALL, kind="product", fusion_size=1), (1, 2, 2), words=5, answers=1).eval()
    with torch.no_grad():
        answerer.fuse.question.bias.fill_(0.5)
        answerer.fuse.picture.weight.copy_(torch.tensor([[1.0, 0.5]]))
        answerer.fuse.picture.bias.fill_(0.0)
        answerer.score.classify.weight.fill_(2.0)
        answerer.score.classify.bias.fill_(0.25)
    scores = answerer(torch.tensor([[[2.0, 4.0], [4.0, 4.0]]]), torch.tensor([[[0, 0]]])).scores_BKA
    assert scores.item() == pytest.approx(2 * math.tanh(0.5) * math.tanh(0.6 + 0.4) + 0.25)


def test_bag_of_words_on_paper():
    vectors = torch.tensor([[[2.0], [4.0], [9.0]], [[1.0], [9.0], [9.0]], [[9.0], [9.0], [9.0]]])
    words = torch.tensor([[5, 6, 0], [7, 0, 0], [0, 0, 0]])
    assert BagReader(1, 0.5).eval()(words, vectors).tolist() == [[3.0], [1.0], [0.0]]


def test_the_reader_equals_torchs_lstm():
    torch.manual_seed(0)
    ours, size = LstmReader(3, 4, 2, 0.0), 4
    theirs = nn.LSTM(3, size, num_layers=2, batch_first=True)
    order = [0, 1, 3, 2]  # ours i, f, o, g; theirs i, f, g, o
    with torch.no_grad():
        for n, cell in enumerate(ours.cells):
            blocks = [(f"weight_ih_l{n}", cell.inputs.weight), (f"weight_hh_l{n}", cell.recurrent.weight)]
            blocks += [(f"bias_ih_l{n}", cell.inputs.bias)]
            for name, value in blocks:
                getattr(theirs, name).copy_(torch.cat([value.chunk(4)[gate] for gate in order]))
            getattr(theirs, f"bias_hh_l{n}").zero_()
    words, vectors = torch.tensor([[4, 5, 6, 7, 8], [4, 5, 0, 0, 0]]), torch.randn(2, 5, 3)
    read = ours(words, vectors)
    for row, length in enumerate([5, 2]):
        _, (h_L1H, c_L1H) = theirs(vectors[row : row + 1, :length])
        expected = torch.cat([h_L1H[0, 0], c_L1H[0, 0], h_L1H[1, 0], c_L1H[1, 0]])
        torch.testing.assert_close(read[row], expected)


def test_without_the_whole_an_answer_rests_on_what_was_seen():
    """Cells that are not looked at change nothing; the mean of the grid lets them speak."""
    grid = torch.rand(1, 6, 5)
    for whole in (True, False):
        answerer = network("attention", hops=1, whole=whole)
        look = answerer.fuse.hops[0]
        look.forward = lambda grid, keys, state: (grid[:, :1].expand_as(state), torch.zeros(1, 1, 6))  # the first cell
        with torch.no_grad():
            before = answerer(grid, torch.tensor([[[3]]])).scores_BKA
            changed = torch.cat([grid[:, :1], torch.rand(1, 5, 5)], dim=1)
            assert torch.equal(answerer(changed, torch.tensor([[[3]]])).scores_BKA, before) is not whole
    assert answerer.fuse.whole is None


def test_attention_is_a_share_of_every_cell():
    answerer = network("attention", hops=3)
    found = answerer(torch.rand(2, 6, 5), torch.tensor([[[3, 4], [5, 0]], [[6, 0], [0, 0]]]))
    assert found.attention_BKP is not None
    assert found.attention_BKP.shape == (2, 2, 6)
    torch.testing.assert_close(found.attention_BKP.sum(2), torch.ones(2, 2))
    assert network("product")(torch.rand(1, 6, 5), torch.tensor([[[3]]])).attention_BKP is None


def test_options_pick_candidates():
    answerer, grid_BPC = network("jabri"), torch.rand(1, 6, 5)
    question_BKQ = torch.tensor([[[3, 4], [5, 6]]])
    whole = answerer(grid_BPC, question_BKQ, None, CANDIDATES).scores_BKA
    options = torch.tensor([[[2, 0], [1, 1]]])
    picked = answerer(grid_BPC, question_BKQ, None, CANDIDATES, options).scores_BKA
    torch.testing.assert_close(picked, whole.gather(2, options))


@pytest.mark.parametrize("kind", KINDS)
def test_the_history_is_read_where_it_should_be(kind):
    grid_BPC, question = torch.rand(1, 6, 5), torch.tensor([[[3, 4]]])
    pasts = [torch.tensor([[[n, 7, 8]]]) for n in (5, 6)]
    with_history = network(kind, history=True)
    first, second = (ask(with_history, grid_BPC, question, past) for past in pasts)
    assert torch.allclose(first, second) == (kind == "picture_only")
    assert ask(with_history, grid_BPC, question, torch.zeros(1, 1, 1, dtype=torch.long)).isfinite().all()


def test_settings_refuse_nonsense():
    with pytest.raises(ValueError, match=r"kind must be one of product, .* got 'mean'"):
        AnswererConfig(kind="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hops must be at least 1, got 0"):
        AnswererConfig(hops=0)
    with pytest.raises(ValueError, match="must write captions or have an answerer"):
        ModelConfig(captions=False)
    config = ModelConfig(captions=False, answerer=AnswererConfig(kind="jabri"))
    assert ModelConfig.from_dict(config.to_dict()) == config
