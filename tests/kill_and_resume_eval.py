"""Kill `python -m eval captions` again and again: it must end with the file of a run that nobody touched.

    python -m tests.kill_and_resume_eval --bundle B --annotations captions_val.json --pictures val --kills 5

Every kill is a kill -9 of the whole process group, workers included, at a moment drawn at random from the time that the
whole run took; the same command continues it each time. Exit status 1 if a byte differs in captions.json, or if a batch
was captioned twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Run:
    """One run's folder, and the command that starts or continues it."""

    def __init__(self, flags: list[str], out: Path):
        self.out, self.log = out, out.with_suffix(".log")
        self.command = [sys.executable, "-m", "eval", "captions", "--no-java", *flags, "--out", str(out)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        if code := self.start().wait():
            self.fail(code)

    def fail(self, code: int) -> None:
        sys.exit(f"{' '.join(self.command)} ended with {code}:\n{self.log.read_text()[-2000:]}")

    def batches(self) -> list[int]:
        """Numbers of the batches in the journal, whole lines only, in the order in which they were finished."""
        journal = self.out / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        return [json.loads(line)["batch"] for line in lines if line.endswith(b"\n")]


def kill_once(run: Run, seconds: float) -> bool:
    """Kill -9 after so many seconds; False if the run ended before."""
    process = run.start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if code:
        run.fail(code)
    return False


def main() -> int:
    """Caption twice, compare, print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_and_resume_eval", description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    for name in ("bundle", "annotations", "pictures"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="as for python -m eval captions")
    args, more = parser.parse_known_args()  # whatever else python -m eval captions takes
    moments = random.Random(args.seed)
    flags = [f"--{name}={getattr(args, name).resolve()}" for name in ("bundle", "annotations", "pictures")] + more
    with tempfile.TemporaryDirectory() as name:
        straight, cut = Run(flags, Path(name) / "straight"), Run(flags, Path(name) / "cut")
        begun = time.monotonic()
        straight.finish()
        seconds = time.monotonic() - begun
        reached = []
        killed = 0
        for _ in range(args.kills):
            killed += kill_once(cut, moments.uniform(0, seconds))
            reached.append(len(cut.batches()))
        cut.finish()
        same = (straight.out / "captions.json").read_bytes() == (cut.out / "captions.json").read_bytes()
        batches = cut.batches()
    once = sorted(batches) == list(range(len(batches)))
    print(
        f"{killed} of {args.kills} kills, after {', '.join(map(str, reached))} of {len(batches)} batches "
        f"({seconds:.0f} s uninterrupted): captions.json is {'byte for byte the same' if same else 'DIFFERENT'}, "
        f"{'no batch was' if once else 'BATCHES WERE'} captioned twice"
    )
    return 0 if same and once and killed == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
