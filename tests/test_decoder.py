"""The recurrent decoder: one LSTM step on paper, its equations in numpy, torch.nn.LSTM, teaching equal to speaking.

Shapes: B pictures, K captions, T words, P cells, C channels, F projected, E word vector, H hidden, S state, G gates.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from captioner.config import ModelConfig
from captioner.model.cells import LstmCell
from captioner.model.decoder import Decoder
from captioner.model.search import BeamSearch, inputs
from captioner.vocabulary import END, PAD, START

V, GRID, P, C, F, E, H = 11, (2, 3, 5), 6, 5, 4, 3, 6
CONDITIONINGS = ("first_step", "first_word", "initial_state")
EVERY = list(product(CONDITIONINGS, ("none", "soft"), (1, 2)))


def decoder(conditioning="first_step", attention="none", layers=1, seed=0, **more) -> Decoder:
    """Random weights, sharpened so that captions differ from picture to picture."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": H, "embed_size": E, "feature_size": F, "attention_size": 5}
    config = ModelConfig(conditioning=conditioning, attention=attention, layers=layers, **sizes, **more)
    network = Decoder(config, GRID, V).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next hidden state and cell; gates in the lecture's order i, f, o, g."""
    i, f, o, g = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def test_one_step_on_paper():
    """i = 3/4, f = 1/4, o = 1/2, g = 3/5 and c = 1/5: c' = 1/4 1/5 + 3/4 3/5 = 1/2, h' = tanh(1/2) / 2."""
    cell = LstmCell(1, 1, 1)
    with torch.no_grad():
        cell.inputs.weight[:] = torch.tensor([[math.log(3)], [0], [0], [0]])
        cell.inputs.bias[:] = torch.tensor([0, 0, 0, math.log(2)])
        cell.recurrent.weight[:] = torch.tensor([[0], [-math.log(3) / 2], [0], [0]])
        one = torch.ones(1)
        hidden, after = cell(cell.inputs(one), 2 * one, 0.2 * one)
    assert float(after) == pytest.approx(0.5)
    assert float(hidden) == pytest.approx(0.5 * 0.46211716)


def test_the_cell_remembers_at_first():
    bias = LstmCell(2, 3, 3).inputs.bias.tolist()
    assert bias == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_torchs_lstm_after_reordering_gates(layers):
    network = decoder(layers=layers)
    reference = nn.LSTM(E, H, layers, batch_first=True)

    def reordered(x: torch.Tensor) -> torch.Tensor:
        i, f, o, g = x.detach().chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        for n, cell in enumerate(network.cells):
            getattr(reference, f"weight_ih_l{n}")[:] = reordered(cell.inputs.weight)
            getattr(reference, f"weight_hh_l{n}")[:] = reordered(cell.recurrent.weight)
            getattr(reference, f"bias_ih_l{n}")[:] = reordered(cell.inputs.bias)
            getattr(reference, f"bias_hh_l{n}").zero_()
        words_BTE = torch.randn(2, 7, E)
        expected_BTH, _ = reference(words_BTE)
        state_BS = torch.zeros(2, 2 * layers * H)
        for t in range(7):
            state_BS, hidden_BH = network.cells(network.cells.gates(words_BTE[:, t]), state_BS[:, :0], state_BS)
            torch.testing.assert_close(hidden_BH, expected_BTH[:, t])


def weights(network: Decoder) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in network.named_parameters()}


def picture(w: dict[str, np.ndarray], grid_PC: np.ndarray) -> np.ndarray:
    """v, the mean of the projected grid: layer norm, linear, ReLU."""
    normal = (grid_PC - grid_PC.mean(1, keepdims=True)) / np.sqrt(grid_PC.var(1, keepdims=True) + 1e-5)
    normal = normal * w["project.0.weight"] + w["project.0.bias"]
    return np.maximum(normal @ w["project.1.weight"].T + w["project.1.bias"], 0).mean(0)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_equations_in_numpy(conditioning):
    """Three steps; the picture joins the gates at t = 0 only, or is one more step, or the first state."""
    network, grid_BPC, words = decoder(conditioning), torch.randn(1, P, C), [START, 5, 7]
    w = weights(network)
    v = picture(w, grid_BPC[0].double().numpy())
    embed, to_words = w["embed.weight"], w["embed.weight"]  # tied
    gates_of = lambda x: w["cells.0.inputs.weight"] @ x + w["cells.0.inputs.bias"]  # noqa: E731
    h = c = np.zeros(H)
    if conditioning == "first_word":
        h, c = lstm(gates_of(w["image_to_word.weight"] @ v + w["image_to_word.bias"]), c)
    if conditioning == "initial_state":
        h, c = np.split(np.tanh(w["image_to_state.weight"] @ v + w["image_to_state.bias"]), 2)
    with torch.no_grad():
        memory, state_BS = network.start(grid_BPC)
        state_BKS = state_BS[:, None]
        np.testing.assert_allclose(state_BKS[0, 0], np.concatenate([h, c]), atol=1e-5)
        for t, word in enumerate(words):
            gates = gates_of(embed[word]) + w["cells.0.recurrent.weight"] @ h
            if t == 0 and conditioning == "first_step":
                gates = gates + w["image_to_gates.weight"] @ v
            h, c = lstm(gates, c)
            scores = to_words @ (w["hidden_to_output.weight"] @ h + w["hidden_to_output.bias"]) + w["words.bias"]
            next_BKV, state_BKS, where_BKP = network.step(torch.tensor(t), torch.tensor([[word]]), state_BKS, memory)
            np.testing.assert_allclose(state_BKS[0, 0], np.concatenate([h, c]), atol=1e-5)
            np.testing.assert_allclose(next_BKV[0, 0], scores - np.log(np.exp(scores).sum()), atol=1e-5)
            assert where_BKP.shape == (1, 1, 0)


def test_deep_output_with_attention_in_numpy():
    """p = softmax(L_o (x + L_h h + L_z z)): the word before and what was seen join the state."""
    network, grid_BPC = decoder("initial_state", "soft"), torch.randn(1, P, C)
    w = weights(network)
    with torch.no_grad():
        memory, state_BS = network.start(grid_BPC)
        z, where = network.attend(memory.grid_BPF, memory.keys_B1PA, state_BS[:, None, :H])
        x, (h, c) = w["embed.weight"][6], np.split(state_BS[0].numpy(), 2)
        next_BKV, _, where_BKP = network.step(torch.tensor(0), torch.tensor([[6]]), state_BS[:, None], memory)
    gates = w["cells.0.inputs.weight"] @ x + w["cells.0.inputs.bias"]
    h, c = lstm(gates + w["cells.0.recurrent.weight"] @ np.concatenate([z[0, 0].numpy(), h]), c)
    joined = w["hidden_to_output.weight"] @ np.concatenate([h, z[0, 0].numpy()]) + w["hidden_to_output.bias"]
    scores = w["embed.weight"] @ (x + joined) + w["words.bias"]
    np.testing.assert_allclose(next_BKV[0, 0], scores - np.log(np.exp(scores).sum()), atol=1e-5)
    torch.testing.assert_close(where_BKP, where)


def taught_log_probs(network: Decoder, grid_BPC, words_BKT, lengths_BK) -> torch.Tensor:
    """Log-probability of every true word, step by step as `teach` orders them."""
    taught = network.teach(grid_BPC, words_BKT, lengths_BK)
    return taught.scores_MV.log_softmax(1).gather(1, taught.targets_M[:, None])[:, 0].detach()


@pytest.mark.parametrize(("conditioning", "attention", "layers"), EVERY)
def test_teaching_equals_speaking(conditioning, attention, layers):
    """What the search found, taught word by word, has the log-probabilities that the search gave it."""
    network, grid_BPC = decoder(conditioning, attention, layers, tied_words=False), torch.randn(2, P, C)
    with torch.no_grad():
        network.words.bias[END] -= 3  # long ones
        found = BeamSearch(network, V)(grid_BPC, *inputs(3, 8, 0.0, 3))
    for b, k in product(range(2), range(3)):
        words_T = found.words_BKT[b, k]
        length = int((words_T != PAD).sum())
        words_BKT = torch.cat([torch.tensor([START]), words_T[:length]])[None, None]
        taught = taught_log_probs(network, grid_BPC[b : b + 1], words_BKT, torch.tensor([[length]]))
        torch.testing.assert_close(taught, found.word_log_probs_BKT[b, k, :length], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.log_probs_BK[0], found.log_probs_BK[1], atol=1e-3)  # the picture matters


@pytest.mark.parametrize(("conditioning", "attention", "layers"), EVERY)
def test_teaching_equals_saying_any_words(conditioning, attention, layers):
    network, grid_BPC = decoder(conditioning, attention, layers), torch.randn(1, P, C)
    words_BKT, lengths_BK = captions([[7]], 7)
    with torch.no_grad():
        memory, state_BS = network.start(grid_BPC)
        state_BKS, said = state_BS[:, None], []
        for t in range(7):
            next_BKV, state_BKS, _ = network.step(torch.tensor(t), words_BKT[:, :, t], state_BKS, memory)
            said.append(next_BKV[0, 0, words_BKT[0, 0, t + 1]])
    taught = taught_log_probs(network, grid_BPC, words_BKT, lengths_BK)
    torch.testing.assert_close(taught, torch.stack(said), atol=1e-4, rtol=1e-4)


def captions(lengths: list[list[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random captions of the given numbers of words to predict, and those numbers."""
    words_BKT = torch.full((len(lengths), len(lengths[0]), width + 1), PAD)
    for b, k in product(range(len(lengths)), range(len(lengths[0]))):
        if n := lengths[b][k]:
            words_BKT[b, k, : n + 1] = torch.cat([torch.tensor([START]), torch.randint(4, V, (n,))])
            words_BKT[b, k, n] = END
    return words_BKT, torch.tensor(lengths)


@pytest.mark.parametrize(("conditioning", "attention", "layers"), EVERY)
def test_a_batch_teaches_each_caption_as_if_alone(conditioning, attention, layers):
    network, grid_BPC = decoder(conditioning, attention, layers), torch.randn(3, P, C)
    words_BKT, lengths_BK = captions([[6, 4, 1], [5, 5, 0], [2, 0, 0]], 6)
    whole = network.teach(grid_BPC, words_BKT, lengths_BK)
    log_probs_M = whole.scores_MV.log_softmax(1).gather(1, whole.targets_M[:, None])[:, 0].detach()
    together = torch.zeros(9).index_add(0, whole.caption_M, log_probs_M).view(3, 3)
    alone, looked = torch.zeros(3, 3), torch.zeros(3, 3, P)
    for b, k in product(range(3), range(3)):
        if n := int(lengths_BK[b, k]):
            one = (grid_BPC[b : b + 1], words_BKT[b : b + 1, k : k + 1], lengths_BK[b : b + 1, k : k + 1])
            alone[b, k] = taught_log_probs(network, *one).sum()
            if attention == "soft":
                looked[b, k] = network.teach(*one).looked_BKP[0, 0].detach()
                assert float(looked[b, k].sum()) == pytest.approx(n, abs=1e-4)  # each word looks once
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert sorted(whole.targets_M.tolist()) == sorted(words_BKT[:, :, 1:][words_BKT[:, :, 1:] != PAD].tolist())
    if attention == "soft":
        torch.testing.assert_close(whole.looked_BKP.detach(), looked, atol=1e-4, rtol=1e-4)
    else:
        assert whole.looked_BKP is None


def test_absent_captions_change_neither_scores_nor_gradients():
    grid_BPC = torch.randn(2, P, C)
    words_BKT, lengths_BK = captions([[4, 2], [3, 3]], 4)
    padded_BKT = torch.cat([words_BKT, torch.full((2, 2, 5), PAD)], dim=1)
    padded_BKT = torch.cat([padded_BKT, torch.full((2, 4, 3), PAD)], dim=2)
    padded_BK = torch.cat([lengths_BK, torch.zeros(2, 2, dtype=torch.long)], dim=1)
    results = []
    for words, lengths in ((words_BKT, lengths_BK), (padded_BKT, padded_BK)):
        network = decoder(attention="soft")
        taught = network.teach(grid_BPC, words, lengths)
        nn.functional.cross_entropy(taught.scores_MV, taught.targets_M).backward()
        results.append((taught.scores_MV.detach(), {n: p.grad for n, p in network.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


def test_tied_words_are_one_matrix():
    tied, free = decoder(tied_words=True), decoder(tied_words=False)
    assert tied.words.weight is tied.embed.weight
    assert free.words.weight is not free.embed.weight
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    assert count(free) - count(tied) == V * E


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_only_the_chosen_conditioning_has_weights(conditioning):
    expected = {"first_step": "image_to_gates", "first_word": "image_to_word", "initial_state": "image_to_state"}
    names = {name.split(".")[0] for name, _ in decoder(conditioning).named_parameters()}
    assert names & set(expected.values()) == {expected[conditioning]}


def test_dropout_only_while_training():
    network, grid_BPC = decoder(dropout=0.5), torch.randn(1, P, C)
    words = captions([[5]], 5)
    assert torch.equal(taught_log_probs(network, grid_BPC, *words), taught_log_probs(network, grid_BPC, *words))
    network.train()
    assert not torch.equal(taught_log_probs(network, grid_BPC, *words), taught_log_probs(network, grid_BPC, *words))
