"""How long one photo takes, stage by stage, with k = 7, and how the same model does in eager torch.

    python -m eval speed --bundle B
    python -m eval speed --bundle B --photo P --question "what colour is the ball?"

The second form times the first question about a photo, which is decoded and encoded for it, and the second, for which
what the encoder saw is remembered.

Medians over repeats, the precisions taking turns, after a warm-up. The torch peer is `python -m captioner.model.eager`
in a process of its own, half way through, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from captioner import sharing
from captioner.atomic import write_json
from captioner.bundle import Bundle, Precision
from captioner.captioner import Captioner
from captioner.config import SearchOptions
from captioner.memory import GridMemory
from eval.results import commit, table, warn

BEAM_SIZE = 7
WARM_UP = 3
STAGES = ("decode + resize", "encode", "search", "total")
PEER_TIMEOUT_S = 1800

Times = dict[str, list[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval speed`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--photo", type=Path, help="default: a generated JPEG of 640 x 480")
    add("--question", metavar="TEXT", help="time questions about the photo instead of captions")
    add("--repeats", type=int, default=50, help="default: 50")
    add("--threads", type=int, default=2, help="for onnxruntime and for torch; default: 2")
    add("--run", type=Path, help="a training run's folder: the torch peer's weights, if the bundle has none")
    add("--out", type=Path, help="write the times to this JSON file")


def main(args: argparse.Namespace) -> None:
    """Time, print, write."""
    for name in ("repeats", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    bundle = sharing.load(args.bundle)
    args.bundle = bundle.folder  # for torch's process
    photo = args.photo.read_bytes() if args.photo else generated_photo()
    captioners = {p: Captioner.load(bundle, precision=p, threads=args.threads) for p in bundle.precisions}
    load = busy()
    circumstances = about(bundle, args.photo, args.threads, args.repeats, load)
    if args.question is not None:
        report = {
            "question": args.question,
            **question_times(captioners, photo, args.question, args.repeats),
            **circumstances,
        }
        print(question_table(report))
        if args.out:
            write_json(args.out, report)
        return
    options = SearchOptions(BEAM_SIZE, bundle.search.max_words, 1, bundle.search.length_power)
    times: dict[Precision, Times] = {precision: {stage: [] for stage in STAGES} for precision in captioners}
    first_half = (args.repeats + 1) // 2
    _measure(captioners, photo, options, first_half, times)
    peer, why_not = torch_peer(args, photo, options.max_words)
    _measure(captioners, photo, options, args.repeats - first_half, times)

    medians = {precision: {stage: median(values) for stage, values in times[precision].items()} for precision in times}
    report = {
        "stages_ms": medians,
        "torch_ms": peer,
        "times_faster_than_torch": {p: ratios(medians[p], peer) for p in medians} if peer else None,
        "torch_not_available": why_not,
        "beam_size": BEAM_SIZE,
        "max_words": options.max_words,
        "length_power": options.length_power,
        **circumstances,
    }
    print(speed_table(medians, peer))
    if why_not:
        warn(f"torch is not available: {why_not}")
    if args.out:
        write_json(args.out, report)


def busy() -> float | None:
    """The machine's load, with a warning if others use it; None where it is not known."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    # Two threads that wait for each other suffer from a neighbour out of all proportion, torch's most of all.
    if load is not None and load > 0.5:
        warn(f"the machine is busy (load {load:.1f}): neither the times nor the ratio are to be quoted")
    return load


def about(bundle: Bundle, photo: Path | None, threads: int, repeats: int, load: float | None) -> dict[str, Any]:
    """What a measurement was made with; photo: None for the generated one."""
    return {
        "photo": photo.name if photo else "generated JPEG, 640 x 480",
        "threads": threads,
        "repeats": repeats,
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "commit": commit(),
    }


def question_times(
    captioners: Mapping[Precision, Captioner], photo: bytes, question: str, repeats: int
) -> dict[str, dict[Precision, float]]:
    """Medians in milliseconds of the first and the second question about a photo, and the second over the first."""
    first: dict[Precision, list[float]] = {precision: [] for precision in captioners}
    second: dict[Precision, list[float]] = {precision: [] for precision in captioners}
    for n in range(WARM_UP + repeats):
        for precision, captioner in captioners.items():
            captioner.memory = GridMemory()
            marks = [perf_counter()]
            for _ in range(2):
                captioner.answer(photo, question)
                marks.append(perf_counter())
            if n >= WARM_UP:
                first[precision].append(1000 * (marks[1] - marks[0]))
                second[precision].append(1000 * (marks[2] - marks[1]))
    medians = [{p: median(values) for p, values in own.items()} for own in (first, second)]
    ratio = {p: medians[1][p] / medians[0][p] for p in captioners}
    return {"first_ms": medians[0], "second_ms": medians[1], "second_over_first": ratio}


def question_table(report: Mapping[str, Any]) -> str:
    """Milliseconds of both questions, and their ratio."""
    rows = [["ms, median", "first question", "second", "second / first"]]
    for precision, first in report["first_ms"].items():
        second, ratio = report["second_ms"][precision], report["second_over_first"][precision]
        rows.append([f"onnx {precision}", f"{first:.2f}", f"{second:.2f}", f"{ratio:.3f}"])
    return table(rows)


def generated_photo() -> bytes:
    """A JPEG of 640 x 480 with as much detail as a photo has: soft colours and some grain."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (480, 640, 1))
    photo = io.BytesIO()
    Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)).save(photo, "JPEG", quality=90)
    return photo.getvalue()


def _measure(
    captioners: Mapping[Precision, Captioner],
    photo: bytes,
    options: SearchOptions,
    repeats: int,
    times: Mapping[Precision, Times],
) -> None:
    """Add `repeats` times of every stage, in milliseconds; the precisions take turns."""
    for n in range(WARM_UP + repeats):
        for precision, captioner in captioners.items():
            marks = [perf_counter()]
            pixels = captioner.pixels(photo)
            marks.append(perf_counter())
            grid_BPC = captioner.encode(pixels[None])
            marks.append(perf_counter())
            captioner.search(grid_BPC, options)
            marks.append(perf_counter())
            if n >= WARM_UP:
                spans = [1000 * (end - start) for start, end in pairwise(marks)]
                for stage, span in zip(STAGES, [*spans, sum(spans)], strict=True):
                    times[precision][stage].append(span)


def torch_peer(args: argparse.Namespace, photo: bytes, max_words: int) -> tuple[dict[str, float] | None, str | None]:
    """(encode_ms, search_ms, total_ms) of the same model in eager torch, or None and the reason in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(photo)
        command = [sys.executable, "-m", "captioner.model.eager", "--bundle", str(args.bundle), "--photo", str(path)]
        command += ["--beam-size", str(BEAM_SIZE), "--max-words", str(max_words)]
        command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
        if args.run:
            command += ["--weights", str(args.run / "best.safetensors")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as e:
            return None, f"captioner.model.eager did not finish: {e}"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return None, f"captioner.model.eager failed: {lines[-1]}"
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return {name: float(answer[name]) for name in ("encode_ms", "search_ms", "total_ms")}, None
    except (IndexError, KeyError, TypeError, ValueError):
        return None, f"captioner.model.eager printed no times: {done.stdout.strip()[-200:]!r}"


def ratios(ours: Mapping[str, float], peer: Mapping[str, float]) -> dict[str, float]:
    """Torch's time over ours; the model is encode + search, as both decode a photo alike."""
    return {
        "encode": peer["encode_ms"] / ours["encode"],
        "search": peer["search_ms"] / ours["search"],
        "model": (peer["encode_ms"] + peer["search_ms"]) / (ours["encode"] + ours["search"]),
    }


def speed_table(medians: Mapping[Precision, Mapping[str, float]], peer: Mapping[str, float] | None) -> str:
    """Milliseconds per stage, and how many times faster than torch."""
    rows = [["ms, median", *STAGES, "times torch's speed"]]
    for precision, stages in medians.items():
        ratio = f"{ratios(stages, peer)['model']:.1f}" if peer else "-"
        rows.append([f"onnx {precision}", *(f"{stages[stage]:.1f}" for stage in STAGES), ratio])
    if peer:
        rows.append(
            ["torch eager", "-", *(f"{peer[name]:.1f}" for name in ("encode_ms", "search_ms", "total_ms")), "1.0"]
        )
    return table(rows)
