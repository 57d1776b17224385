"""What it costs to have a bundle at hand: seconds of import, load and caption, memory and bytes, in fresh processes.

    python -m eval footprint --bundle B [--photo P] [--repeats N] [--out FILE]

Every repeat is a new Python process that imports captioner, loads the bundle (which imports onnxruntime), captions the
photo once and then WARM times more with nothing remembered. Each figure is the median over the processes; the first of
them only warms the page cache and is thrown away. `cold_s` runs from before the process is there to its first caption.
Memory is Linux's: the largest resident set (VmHWM) and the resident set at the end (VmRSS); elsewhere null.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from captioner import sharing
from captioner.atomic import write_json
from captioner.bundle import Bundle
from captioner.engine import engine_name, usable_cores
from eval.speed import about, busy, generated_photo

WARM = 21
"""Captions, and answers, in a process after the first."""
TIMEOUT_S = 300
QUESTION = "what is in the picture?"

# A program of its own, not a function of this module: importing eval would be measured with it.
PROBE = """
import json, sys, time
start = time.perf_counter()
import captioner
imported = time.perf_counter()
bundle, photo, threads, warm, question = json.loads(sys.argv[1])
model = captioner.Captioner.load(bundle, threads=threads, memory_bytes=0)
loaded = time.perf_counter()
with open(photo, "rb") as file:
    photo = file.read()
jobs = {}
if model.bundle.model.captions:
    jobs["caption"] = lambda: model.caption(photo, captions=1)
if model.bundle.answers:
    jobs["answer"] = lambda: model.answer(photo, question)
found = {"import_s": imported - start, "load_s": loaded - imported}
for name, job in jobs.items():
    times = []
    for _ in range(1 + warm):
        begun = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - begun))
        found.setdefault("first_at", time.time())
    found["first_" + name + "_ms"] = times[0]
    found["warm_" + name + "_ms"] = sorted(times[1:])[warm // 2]
try:
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    for name, field in (("peak_memory_mb", "VmHWM"), ("steady_memory_mb", "VmRSS")):
        found[name] = int(status[field].split()[0]) * 1024 / 1e6
except (OSError, KeyError):
    found["peak_memory_mb"] = found["steady_memory_mb"] = None
print(json.dumps(found))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval footprint`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--photo", type=Path, help="default: a generated JPEG of 640 x 480")
    add("--repeats", type=int, default=5, help="processes; default: 5")
    add("--threads", type=int, help="of the engine; default: all usable cores")
    add("--out", type=Path, help="write the figures to this JSON file")


def main(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    for name in ("repeats", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    bundle = sharing.load(args.bundle)
    photo = args.photo.read_bytes() if args.photo else generated_photo()
    threads = args.threads or usable_cores()
    load = busy()
    report = {
        **footprint(bundle, photo, threads, args.repeats),
        "warm": WARM,
        "beam_size": bundle.search.beam_size if bundle.model.captions else None,
        "engine": engine_name(),
        "python": platform.python_version(),
        **about(bundle, args.photo, threads, args.repeats, load),
    }
    print(footprint_line(report))
    if args.out:
        write_json(args.out, report)


def footprint(bundle: Bundle, photo: bytes, threads: int, repeats: int) -> dict[str, Any]:
    """Medians over fresh processes, and the bytes of the bundle's files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(photo)
        runs = [_probe(bundle.folder, path, threads) for _ in range(1 + repeats)][1:]
    files = {file.name: file.stat().st_size for file in sorted(bundle.folder.iterdir()) if file.is_file()}
    return {**medians(runs), "bytes": sum(files.values()), "files": files}


def medians(runs: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Of each figure; None where any run has none."""
    found: dict[str, float | None] = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run[name]) is not None]
        found[name] = median(values) if len(values) == len(runs) else None
    return found


def footprint_line(report: Mapping[str, Any]) -> str:
    """The figures for people."""
    parts = [f"import {report['import_s']:.2f} s, load {report['load_s']:.2f} s, from nothing {report['cold_s']:.2f} s"]
    for name in ("caption", "answer"):
        if f"first_{name}_ms" in report:
            parts.append(f"{name} {report[f'first_{name}_ms']:.1f} ms first, {report[f'warm_{name}_ms']:.1f} ms warm")
    if report["peak_memory_mb"] is not None:
        parts.append(f"memory {report['steady_memory_mb']:.0f} MB, at most {report['peak_memory_mb']:.0f} MB")
    parts.append(f"{report['bytes'] / 1e6:.1f} MB on disk")
    return f"{report['bundle']}: {'; '.join(parts)} (medians of {report['repeats']} processes)"


def _probe(bundle: Path, photo: Path, threads: int) -> dict[str, float | None]:
    settings = json.dumps([str(bundle), str(photo), threads, WARM, QUESTION])
    root = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    start = time.time()
    try:
        done = subprocess.run([sys.executable, "-c", PROBE, settings], capture_output=True, text=True,
                              timeout=TIMEOUT_S, env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise ValueError(f"bundle {bundle}: not measured in {TIMEOUT_S} s") from e
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(f"bundle {bundle}: cannot be measured: {lines[-1]}")
    found: dict[str, float | None] = json.loads(done.stdout.strip().splitlines()[-1])
    first_at = found.pop("first_at", None)
    return {"cold_s": first_at - start if first_at else None, **found}
