"""The flags of an engine, for every command that serves one."""

from __future__ import annotations

import argparse

from captioner.engine import PROVIDERS
from services.settings import EngineSettings


def add_engine_flags(parser: argparse.ArgumentParser, threads: int | None, threads_help: str, queue_help: str) -> None:
    """How models run, and the log. threads: where the flag is not given."""
    default, add = EngineSettings(), parser.add_argument
    add("--max-queue", type=int, default=default.max_queue, metavar="N", help=f"{queue_help} (%(default)s)")
    add("--max-batch", type=int, default=default.max_batch, metavar="N", help="pictures in one run (%(default)s)")
    add("--threads", type=int, default=threads, metavar="N", help=threads_help)
    add("--precision", choices=("int8", "fp32"), help="of the graphs (int8 if the bundle has it)")
    add("--provider", choices=tuple(PROVIDERS), default=default.provider, help="what runs the models (%(default)s)")
    add("--require-gpu", action="store_true", help="fail rather than fall back to the CPU")
    add("--log", choices=("json", "text"), default="json", help="one JSON object a line, or text (%(default)s)")


def engine_settings(given: argparse.Namespace) -> EngineSettings:
    """What those flags say; ValueError for what cannot be meant."""
    return EngineSettings(
        max_queue=given.max_queue,
        max_batch=given.max_batch,
        threads=given.threads,
        precision=given.precision,
        provider=given.provider,
        require_gpu=given.require_gpu,
    )
