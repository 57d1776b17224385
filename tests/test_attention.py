"""Soft attention: an example on paper, its equations in numpy, and what holds for any numbers."""

import math

import numpy as np
import pytest
import torch

from captioner.config import ModelConfig
from captioner.model.attention import SoftAttention
from captioner.model.decoder import Decoder

N, K, P, F, A, H = 2, 3, 5, 4, 6, 7


def two_cells() -> SoftAttention:
    """F = 2, H = 1, A = 1: only the first channel is scored, with ln 3 / .6 times its tanh."""
    attention = SoftAttention(2, 1, 1)
    with torch.no_grad():
        attention.to_keys.weight[:] = torch.tensor([[1.0, 0.0]])
        attention.to_keys.bias.zero_()
        attention.to_query.weight[:] = torch.tensor([[1.0], [0.0]])  # the state as it is; beta from its bias alone
        attention.to_query.bias[:] = torch.tensor([0.0, math.log(3)])
        attention.score.weight[:] = math.log(3) / 0.6
    return attention


def seen(attention: SoftAttention, grid_NPF: torch.Tensor, hidden_NKH: torch.Tensor):
    with torch.no_grad():
        return attention(grid_NPF, attention.keys(grid_NPF), hidden_NKH)


def test_two_cells_on_paper():
    """tanh(ln 2) = 3/5, so e = (0, ln 3), alpha = (1/4, 3/4), beta = 3/4."""
    grid_NPF = torch.tensor([[[0.0, 4.0], [math.log(2), 8.0]]])
    context_NKF, where_NKP = seen(two_cells(), grid_NPF, torch.zeros(1, 1, 1))
    assert where_NKP[0, 0].tolist() == pytest.approx([0.25, 0.75])
    assert context_NKF[0, 0].tolist() == pytest.approx([0.75 * 0.75 * math.log(2), 0.75 * (0.25 * 4 + 0.75 * 8)])


def test_the_state_decides_where():
    """With h = -ln 2 the first cell has tanh(-ln 2) = -3/5 and the second tanh 0: e = (-ln 3, 0), the same map."""
    grid_NPF = torch.tensor([[[0.0, 4.0], [math.log(2), 8.0]]])
    states = torch.tensor([[[-math.log(2)], [20.0], [-20.0]]])
    _, where_NKP = seen(two_cells(), grid_NPF, states)
    assert where_NKP[0, 0].tolist() == pytest.approx([0.25, 0.75])
    assert where_NKP[0, 1].tolist() == pytest.approx([0.5, 0.5])  # both saturated
    assert where_NKP[0, 2].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("gate", "share"), [(-30.0, 0.0), (-math.log(3), 0.25), (0.0, 0.5), (30.0, 1.0)])
def test_the_gate_scales_what_is_seen_and_not_where(gate, share):
    attention, grid_NPF = two_cells(), torch.tensor([[[0.0, 4.0], [math.log(2), 8.0]]])
    with torch.no_grad():
        attention.to_query.bias[1] = gate
    context_NKF, where_NKP = seen(attention, grid_NPF, torch.zeros(1, 1, 1))
    assert float(context_NKF[0, 0, 1]) == pytest.approx(share * 7, abs=1e-6)
    assert where_NKP[0, 0].tolist() == pytest.approx([0.25, 0.75])


def test_equations_in_numpy():
    torch.manual_seed(0)
    attention = SoftAttention(F, H, A)
    grid_NPF, hidden_NKH = torch.randn(N, P, F), torch.randn(N, K, H)
    context_NKF, where_NKP = seen(attention, grid_NPF, hidden_NKH)
    w = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    for n in range(N):
        for k in range(K):
            h = hidden_NKH[n, k].numpy()
            query = w["to_query.weight"][:A] @ h + w["to_query.bias"][:A]
            keys = grid_NPF[n].numpy() @ w["to_keys.weight"].T + w["to_keys.bias"]
            e = np.tanh(keys + query) @ w["score.weight"][0]
            alpha = np.exp(e) / np.exp(e).sum()
            beta = 1 / (1 + np.exp(-(w["to_query.weight"][A] @ h + w["to_query.bias"][A])))
            np.testing.assert_allclose(where_NKP[n, k], alpha, atol=1e-6)
            np.testing.assert_allclose(context_NKF[n, k], beta * alpha @ grid_NPF[n].numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1.0, 1000.0])
def test_maps_sum_to_one(size):
    torch.manual_seed(0)
    _, where_NKP = seen(SoftAttention(F, H, A), size * torch.randn(N, P, F), size * torch.randn(N, K, H))
    assert (where_NKP >= 0).all()
    torch.testing.assert_close(where_NKP.sum(2), torch.ones(N, K))


def test_moving_the_cells_moves_the_map():
    torch.manual_seed(0)
    attention, order = SoftAttention(F, H, A), torch.tensor([3, 0, 4, 1, 2])
    grid_NPF, hidden_NKH = torch.randn(N, P, F), torch.randn(N, K, H)
    context_NKF, where_NKP = seen(attention, grid_NPF, hidden_NKH)
    moved_context_NKF, moved_NKP = seen(attention, grid_NPF[:, order], hidden_NKH)
    torch.testing.assert_close(moved_NKP, where_NKP[:, :, order])
    torch.testing.assert_close(moved_context_NKF, context_NKF)


def decoder(positions: bool) -> Decoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "embed_size": 4, "feature_size": F, "attention_size": A}
    return Decoder(ModelConfig(attention="soft", positions=positions, **sizes), (2, 3, 5), 9).eval()


def test_positions_are_added_to_the_projected_cells():
    network, grid_BPC = decoder(positions=True), torch.randn(2, 6, 5)
    with torch.no_grad():
        plain = network.project(grid_BPC)
        torch.testing.assert_close(network.start(grid_BPC)[0].grid_BPF, plain)  # none at first
        network.position_PF[4] = 2.0
        moved = network.start(grid_BPC)[0].grid_BPF - plain
    torch.testing.assert_close(moved[:, 4], torch.full((2, F), 2.0))
    assert not moved[:, [0, 1, 2, 3, 5]].any()
    assert decoder(positions=False).position_PF is None


def test_only_positions_tell_equal_cells_apart():
    network, same_BPC = decoder(positions=True), torch.randn(1, 1, 5).expand(1, 6, 5)
    words_BK = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        for known in (False, True):
            if known:
                network.position_PF.normal_()
            memory, state_BS = network.start(same_BPC)
            _, _, where_BKP = network.step(torch.tensor(0), words_BK, state_BS[:, None], memory)
            assert (where_BKP.std(dim=2) > 1e-3).item() is known
            torch.testing.assert_close(where_BKP.sum(2), torch.ones(1, 1))
