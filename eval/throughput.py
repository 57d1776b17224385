"""How much of the engine's own rate `eval captions` keeps.

    python -m eval.throughput --bundle B --annotations captions_val.json --pictures val

In turns, in one process: the loop of `eval captions`, from reading the files to the journal on disk, and the bare rate,
which is the time inside onnxruntime alone when the same captioner runs the same batches of pictures decoded beforehand.
The ratio is the median over rounds, because a machine's speed changes from minute to minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner import sharing
from captioner.atomic import write_json
from captioner.bundle import Precision
from captioner.captioner import Captioner
from captioner.engine import EngineError, Session, Stop, usable_cores
from eval.captions import caption_batches
from eval.coco import load_split
from eval.decoding import decode_ahead
from eval.journal import Journal
from eval.results import commit, table


class TimedSession(Session):
    """A graph that knows how long it ran."""

    seconds = 0.0

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        """The named outputs of one run."""
        begun = perf_counter()
        found = super().run(outputs, inputs, stop)
        self.seconds += perf_counter() - begun
        return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second in every round, and the ratio."""
    bundle = sharing.load(args.bundle)
    precision: Precision = args.precision or bundle.precision
    graphs = [TimedSession(bundle.graph(which, precision), args.threads) for which in ("encoder", "captioner")]
    captioner = Captioner(bundle, precision, *graphs)
    pictures = load_split(args.annotations, args.pictures).pictures[: args.limit]
    batches = [pictures[n : n + args.batch_size] for n in range(0, len(pictures), args.batch_size)]
    paths = [[picture.path for picture in batch] for batch in batches]
    decoded = [batch.pixels_BHW3 for batch in decode_ahead(paths, bundle.model.preprocessing, usable_cores())]
    if missing := len(pictures) - sum(map(len, decoded)):
        raise ValueError(f"{missing} of {len(pictures)} pictures cannot be read")
    rounds = []
    for _ in range(args.rounds):
        bare = len(pictures) / _bare_seconds(captioner, graphs, decoded)
        with TemporaryDirectory() as folder, Journal(Path(folder), {}) as journal:
            run = caption_batches(captioner, batches, [bundle.search], journal, args.workers)
        rounds.append({"bare": bare, "eval captions": run["pictures_per_second"], "stages": run["stages"]})
    return {
        "ratio": median(each["eval captions"] / each["bare"] for each in rounds),
        "rounds": rounds,
        "pictures": len(pictures),
        "batch_size": args.batch_size,
        "beam_size": bundle.search.beam_size,
        "precision": precision,
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "commit": commit(),
    }


def _bare_seconds(captioner: Captioner, graphs: Sequence[TimedSession], decoded: Sequence[NDArray[np.uint8]]) -> float:
    """Inside the two graphs, with nothing else going on."""
    before = sum(graph.seconds for graph in graphs)
    for pixels_BHW3 in decoded:
        captioner.search(captioner.encode(pixels_BHW3), captioner.bundle.search)
    return sum(graph.seconds for graph in graphs) - before


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit status 1 for what the person can put right."""
    parser = argparse.ArgumentParser(prog="python -m eval.throughput", description=__doc__)
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--annotations", type=Path, required=True, help="captions in COCO's layout")
    add("--pictures", type=Path, required=True, help="the folder that the annotations' file names are in")
    add("--precision", choices=("int8", "fp32"), help="default: int8 if the bundle has it")
    add("--batch-size", type=int, default=32, help="default: 32")
    add("--limit", type=int, default=1000, help="pictures, all in memory at once; default: 1000")
    add("--threads", type=int, help="of the engine; default: all cores")
    add("--workers", type=int, help="processes that decode; default: as many as cores")
    add("--rounds", type=int, default=5, help="default: 5")
    add("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)
    try:
        for name in ("batch_size", "limit", "rounds"):
            if getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
        report = measure(args)
        if args.out:
            write_json(args.out, report)
    except (ValueError, OSError, EngineError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    rows = [[f"{each[rate]:.1f}" for rate in ("bare", "eval captions")] for each in report["rounds"]]
    print(table([["bare pictures/s", "eval captions"], *rows]))
    print(f"eval captions keeps {report['ratio']:.2f} of the engine's own rate (median of {args.rounds} rounds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
