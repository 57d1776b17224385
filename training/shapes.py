"""python -m training.shapes RUN... --photos DIR --out FOLDER: which encoder is worth its time.

For each run of training.distill: how near its student comes to the teacher on validation pictures, beside the time of
its int8 graph for one picture. Times are medians of interleaved runs on this machine. Writes shapes.csv and shapes.svg.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import trange

from captioner.atomic import replace_file
from captioner.engine import Session
from captioner.model import graphs
from captioner.model.encoder import Encoder, preprocessing_of
from captioner.model.export import photos_in
from captioner.model.quantize_encoder import quantize_encoder

CALIBRATION_PHOTOS = 32


@dataclass(frozen=True)
class Shape:
    """One student."""

    name: str
    size: int
    """Pixels, in height and width."""
    epochs: int
    parameters: int
    int8_bytes: int
    int8_ms: float
    """Median for one picture."""
    val_grid: float
    val_kl: float
    val_same_class: float
    """Share of validation pictures whose likeliest class is the teacher's."""


def measure(runs: list[Path], photos: Path, repeats: int, threads: int) -> list[Shape]:
    """Export, quantise and time each; ValueError for a folder that is no finished run."""
    sessions, facts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            settings, last = _read(run)
            name, size = settings["student"], settings["size"]
            preprocessing = preprocessing_of(name, size, size)
            encoder = Encoder(name, preprocessing, str(run / "encoder.safetensors")).eval()
            fp32, int8 = Path(folder) / "encoder.onnx", Path(folder) / "encoder.int8.onnx"
            graphs.write_encoder(encoder, preprocessing, fp32)
            quantize_encoder(fp32, int8, photos_in(photos, preprocessing, CALIBRATION_PHOTOS))
            parameters = sum(p.numel() for p in encoder.parameters())
            facts.append((name, size, last["epoch"], parameters, int8.stat().st_size, last))
            sessions.append((Session(int8, threads), np.zeros((1, size, size, 3), np.uint8)))
    times: list[list[float]] = [[] for _ in sessions]
    for _ in trange(repeats, leave=False):
        for (session, pixels), mine in zip(sessions, times, strict=True):
            session.run(["grid"], {"pixels": pixels})  # the one before has left the caches cold
            started = time.perf_counter()
            session.run(["grid"], {"pixels": pixels})
            mine.append(time.perf_counter() - started)
    return [
        Shape(*fact[:5], 1000 * float(np.median(mine)), *(fact[5][k] for k in ("val_grid", "val_kl", "val_same_class")))
        for fact, mine in zip(facts, times, strict=True)
    ]


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's settings and its last epoch."""
    for name in ("settings.json", "metrics.jsonl", "encoder.safetensors"):
        if not (run / name).is_file():
            raise ValueError(f"{run} is not a run of training.distill with a finished epoch: {name} is missing")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads((run / "settings.json").read_text()), json.loads(lines[-1])


def plot(shapes: list[Shape], path: Path) -> None:
    """How far from the teacher's classes, over the time for one picture."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "shapes"  # or each file would differ
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind in sorted({shape.name.split("_")[0] for shape in shapes}):
        ours = [shape for shape in shapes if shape.name.startswith(kind)]
        axes.scatter([s.int8_ms for s in ours], [s.val_kl for s in ours], label=kind)
    for s in shapes:
        label = f"{s.name.split('_')[1]} channels, {s.size} px"
        axes.annotate(label, (s.int8_ms, s.val_kl), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="int8 graph, one picture (ms)", ylabel="KL from the teacher's classes, validation (nats)")
    axes.margins(x=0.2, y=0.15)
    axes.set_xlim(0, 1.25 * max(s.int8_ms for s in shapes))  # room for the labels
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))


def main() -> int:
    """Parse the command line, measure, write the table and the plot."""
    parser = argparse.ArgumentParser(prog="python -m training.shapes", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of training.distill")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="for the ranges of the int8 graphs")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--repeats", type=int, default=100, help="of each timing (100)")
    parser.add_argument("--threads", type=int, default=2, help="of onnxruntime (2)")
    args = parser.parse_args()
    try:
        shapes = measure(args.runs, args.photos, args.repeats, args.threads)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "shapes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(shapes[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(shape).items()} for shape in shapes
        )
    plot(shapes, args.out / "shapes.svg")
    for shape in sorted(shapes, key=lambda shape: shape.int8_ms):
        first = f"{100 * shape.val_same_class:.1f} % have the teacher's first class"
        print(f"{shape.name} {shape.size}: {shape.int8_ms:.2f} ms, KL {shape.val_kl:.3f}, {first}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
