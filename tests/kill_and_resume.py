"""Kill a training run again and again: it must end with the weights of a run that nobody touched.

    python -m tests.kill_and_resume --kills 20

Most kills come a moment after a place in the run that is drawn at random, every fifth while the process starts. The
same command continues the run each time. Exit status 1 if a byte differs in the weights that are kept or in the last
checkpoint: the weights, their average and the optimizer.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.tiny_training import KILLED_PICTURES, PICTURES, draw, leaves
from training import checkpoint

ROOT = Path(__file__).resolve().parents[1]


class Run:
    """One run's folder, and the command that starts or continues it."""

    def __init__(self, recipe: str, data: Path, out: Path, checkpoint_seconds: float):
        self.out, self.log = out, out.with_suffix(".log")
        flags = ["--data", data, "--out", out, "--features", out / "features", "--device", "cpu"]
        flags += ["--checkpoint-seconds", checkpoint_seconds]
        self.command = [sys.executable, "-m", "tests.tiny_training", recipe, *map(str, flags)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log)

    def finish(self) -> int:
        """Run to the end; returns how many steps that were in all."""
        if code := self.start().wait():
            sys.exit(f"{' '.join(self.command)} ended with {code}:\n{self.log.read_text()[-2000:]}")
        return int(json.loads((self.out / "metrics.jsonl").read_text().splitlines()[-1])["step"])

    def step(self) -> int:
        """Of the newest checkpoint."""
        return max((int(path.stem.partition("-")[2]) for path in self.out.glob("checkpoint-*.json")), default=0)

    def training_since(self, moment: float) -> bool:
        """Whether the process that started at that moment is through with loading."""
        settings = self.out / "run.json"
        return settings.exists() and settings.stat().st_mtime > moment

    def result(self) -> tuple[bytes, dict[str, Any]]:
        """The weights that were kept, and all that the last checkpoint holds."""
        return (self.out / "best.safetensors").read_bytes(), leaves(checkpoint.newest(self.out))


def kill_once(run: Run, from_step: int | None, delay: float) -> bool:
    """Kill -9 that many seconds after a step, None: after the start. False if the run ended before."""
    started = time.time()
    process = run.start()
    while from_step is not None and process.poll() is None:
        if run.training_since(started) and run.step() >= from_step:
            break
        time.sleep(0.01)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    if process.returncode:
        sys.exit(f"the run ended by itself with {process.returncode}:\n{run.log.read_text()[-2000:]}")
    return False


def main() -> int:
    """Train twice, compare, print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_and_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", choices=("killed", "tiny", "tiny_frozen"), default="killed")
    parser.add_argument("--checkpoint-seconds", type=float, default=1.0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "data", KILLED_PICTURES if args.recipe == "killed" else PICTURES)
        straight, cut = (
            Run(args.recipe, folder / "data", folder / kind, args.checkpoint_seconds) for kind in ("straight", "cut")
        )
        begun = time.monotonic()
        steps = straight.finish()
        seconds = time.monotonic() - begun
        places = sorted(moments.randrange(int(0.95 * steps)) for _ in range(args.kills))
        killed = 0
        for n, place in enumerate(places):
            while_starting = n % 5 == 4
            delay = moments.uniform(0, 10 if while_starting else 1.5 * args.checkpoint_seconds)
            killed += kill_once(cut, None if while_starting else place, delay)
        cut.finish()
        same = straight.result() == cut.result()
    verdict = "byte for byte the same" if same else "DIFFERENT"
    print(
        f"{killed} of {args.kills} kills in {steps} steps ({seconds:.0f} s uninterrupted): "
        f"final weights and last checkpoint are {verdict}"
    )
    return 0 if same and killed == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
