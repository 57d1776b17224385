"""Throw bytes at what strangers reach, led by coverage (atheris, libFuzzer).

    python -m tests.fuzz images --runs 1000000
    python -m tests.fuzz requests --seconds 300

Any exception but the declared ones, a run of more than --timeout seconds and more memory than --memory MB end it with
a status that is not 0, and leave the input beside the corpus in .cache/fuzz. Once mended, it belongs into
tests/fuzz/found, where a test tries it ever after. The corpus is kept, so that the next run goes on from it.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import atheris

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
INSTRUMENTED = {
    "images": ["captioner.images", "PIL"],
    "requests": ["captioner.query", "captioner.questions", "captioner.tokens", "captioner.config", "services",
                 "connectrpc", "google.protobuf.json_format"],
}  # fmt: skip


def main() -> None:
    """Parse the command line, fuzz; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=INSTRUMENTED)
    parser.add_argument("--runs", type=int, default=-1, help="stop after so many (never)")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so long (never)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MB", help="of the process (%(default)s)")
    parser.add_argument("--timeout", type=int, default=20, metavar="S", help="of one run (%(default)s)")
    parser.add_argument("--longest", type=int, default=4096, metavar="BYTES", help="of an input (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer; 0 draws one (%(default)s)")
    args = parser.parse_args()
    with atheris.instrument_imports(include=INSTRUMENTED[args.target]):
        target = importlib.import_module(f"tests.fuzz.{args.target}")
    corpus = CACHE / args.target
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in target.SEEDS.items():
        (corpus / f"seed-{name}").write_bytes(data)
        target.one_input(data)  # what takes long the first time is no input's fault
    flags = {
        "runs": args.runs, "max_total_time": args.seconds, "rss_limit_mb": args.memory, "timeout": args.timeout,
        "max_len": args.longest, "seed": args.seed, "artifact_prefix": f"{CACHE / args.target}-",
        "print_final_stats": 1,
    }  # fmt: skip

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        mutated: bytes = atheris.Mutate(data, longest)
        return target.repaired(mutated)[:longest] if seed % 4 else mutated

    command = ["fuzz", *(f"-{name}={value}" for name, value in flags.items()), str(corpus)]
    atheris.Setup(command, target.one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
