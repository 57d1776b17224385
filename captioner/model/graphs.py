"""The ONNX graphs of a model: encoder.onnx, captioner.onnx with the search inside, answerer.onnx.

Shapes: B pictures, H x W pixels, P grid cells, C channels, K beams, T steps, N questions, Q words of a question or a
history, A answers, W words of an answer.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from captioner.config import AnswererConfig, Preprocessing
from captioner.model import onnx_lstm, search
from captioner.model.answerer import Answerer
from captioner.model.network import Network

OPSET = 20
ENCODER, CAPTIONER, ANSWERER = "encoder.onnx", "captioner.onnx", "answerer.onnx"
SEARCH_INPUTS = ("grid", "first_scores", "steps", "length_power", "wanted")
SEARCH_OUTPUTS = ("words", "word_log_probs", "log_probs", "scores", "attention")


class _SearchGraph(nn.Module):
    """The search with outputs as a plain tuple, without the maps where there is no attention."""

    def __init__(self, network: Network):
        super().__init__()
        self.search, self.maps = network.search, network.config.attention != "none"

    def forward(
        self, grid_BPC: Tensor, first_scores_K: Tensor, steps_T: Tensor, length_power: Tensor, wanted: Tensor
    ) -> tuple[Tensor, ...]:
        found = self.search(grid_BPC, first_scores_K, steps_T, length_power, wanted)
        return tuple(found) if self.maps else tuple(found)[:-1]


class AnswerGraph(nn.Module):
    """Questions each with the number of its picture; further inputs and outputs only where the network has them."""

    def __init__(self, answerer: Answerer):
        super().__init__()
        self.answerer = answerer

    def forward(self, grid_BPC: Tensor, question_NQ: Tensor, picture_N: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        history = rest[0][:, None] if self.answerer.config.history else None
        candidates = rest[-1] if self.answerer.config.kind == "jabri" else None
        found = self.answerer(grid_BPC.index_select(0, picture_N), question_NQ[:, None], history, candidates)
        log_probs_NA = found.scores_BKA.squeeze(1).log_softmax(dim=1)
        return (log_probs_NA,) if found.attention_BKP is None else (log_probs_NA, found.attention_BKP.squeeze(1))


def answer_inputs(config: AnswererConfig) -> list[str]:
    """Names of what answerer.onnx takes."""
    history = ["history"] if config.history else []
    return ["grid", "question", "picture", *history, *(["candidates"] if config.kind == "jabri" else [])]


def answer_outputs(config: AnswererConfig) -> list[str]:
    """Names of what answerer.onnx gives."""
    return ["log_probs", "attention"] if config.kind == "attention" else ["log_probs"]


def write_encoder(encoder: nn.Module, size: Preprocessing, path: Path, outputs: Sequence[str] = ("grid",)) -> None:
    """encoder.onnx: uint8 `pixels` [B, H, W, 3] to float32 `grid` [B, P, C]; another module may have other outputs."""
    pixels_BHW3 = torch.zeros(2, size.height, size.width, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            encoder, (pixels_BHW3,), dynamo=True, verbose=False, opset_version=OPSET, input_names=["pixels"],
            output_names=list(outputs), dynamic_shapes=({0: torch.export.Dim("batch", max=1024)},),
        )  # fmt: skip
    _save(program, path)


def write_captioner(network: Network, path: Path) -> None:
    """captioner.onnx: a grid, the search's options and the steps, to hypotheses; any B, K and T."""
    rows, columns, channels = network.grid
    given = (torch.randn(2, rows * columns, channels), *search.inputs(7, 20, 0.7, 3))
    size = torch.export.Dim
    shapes = (
        {0: size("batch", max=1024)},
        {0: size("beams", min=1, max=search.MOST_BEAMS)},
        {0: size("steps", max=64)},
        None,
        None,
    )
    outputs = SEARCH_OUTPUTS[: 5 if network.config.attention != "none" else 4]
    with _quiet():
        program = torch.onnx.export(
            _SearchGraph(network).eval(), given, dynamo=True, verbose=False, opset_version=OPSET,
            input_names=list(SEARCH_INPUTS), output_names=list(outputs), dynamic_shapes=shapes,
        )  # fmt: skip
    _save(program, path)
    _flatten_plainly(path)


def write_answerer(network: Network, path: Path) -> None:
    """answerer.onnx: a grid [B, P, C], questions [N, Q] and each one's row of the grid [N] to `log_probs` [N, A].

    `attention` [N, P] where the network has it; a `history` [N, Q] or `candidates` [A, W] go in where it takes them.
    """
    assert network.answerer is not None
    config = network.answerer.config
    rows, columns, channels = network.grid
    words = network.answerer.embed.num_embeddings
    size = torch.export.Dim
    given = {
        "grid": (torch.randn(2, rows * columns, channels), {0: size("batch", max=1024)}),
        "question": (torch.randint(1, words, (3, 5)), {0: size("questions", max=4096), 1: size("words", max=1024)}),
        "picture": (torch.tensor([0, 1, 1]), {0: size("questions", max=4096)}),
        "history": (torch.randint(1, words, (3, 7)), {0: size("questions", max=4096), 1: size("past", max=1024)}),
        "candidates": (torch.randint(1, words, (4, 2)), {0: size("answers", max=65536), 1: size("letters", max=64)}),
    }
    names = answer_inputs(config)
    inputs = tuple(given[name][0] for name in names)
    rest = tuple(given[name][1] for name in names[3:])
    shapes = (*(given[name][1] for name in names[:3]), *([rest] if rest else []))
    with _quiet():
        program = torch.onnx.export(
            AnswerGraph(network.answerer).eval(), inputs, dynamo=True, verbose=False, opset_version=OPSET,
            input_names=names, output_names=answer_outputs(config), dynamic_shapes=shapes,
            custom_translation_table=onnx_lstm.translations(),
        )  # fmt: skip
    _save(program, path)


def _flatten_plainly(path: Path) -> None:
    """In the loop's body, let flatten(1) be a Reshape to [0, -1]: the exporter computes K * K in five nodes a step."""
    import onnx

    model = onnx.load(path)
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    made = {output: node for node in body.node for output in node.output}
    body.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1]), "keep_first"))
    for node in body.node:
        if node.op_type == "Reshape" and node.input[1] in made and made[node.input[1]].op_type == "Concat":
            node.input[1] = "keep_first"
            del node.attribute[:]  # allowzero
    used: set[str] = {output.name for output in body.output}
    for node in reversed(list(body.node)):  # what only they needed
        if used.isdisjoint(node.output):
            body.node.remove(node)
        else:
            used.update(node.input)
    onnx.save(model, path)


def _save(program: torch.onnx.ONNXProgram | None, path: Path) -> None:
    assert program is not None
    program.save(str(path), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecations and logs each step; neither is the caller's business."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
