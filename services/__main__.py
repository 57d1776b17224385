"""python -m services --bundle DIR: serve a bundle over gRPC."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from captioner import Captioner
from captioner.engine import EngineError
from services.server import ListenError, ServerSettings, serve


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, load the bundle, serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m services", description="Serve a bundle over gRPC.")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the model")
    parser.add_argument("--host", default=ServerSettings.host, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=ServerSettings.port, help="0 takes a free one (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the model (one per core)")
    parser.add_argument("--precision", choices=("int8", "fp32"), help="of the graphs (int8 if the bundle has it)")
    parser.add_argument(
        "--max-queue",
        type=int,
        default=ServerSettings.max_queue,
        help="pictures waiting or being captioned; one more is refused (%(default)s)",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = ServerSettings(given.host, given.port, given.max_queue)
        captioner = Captioner.load(given.bundle, precision=given.precision, threads=given.threads)
    except (ValueError, EngineError) as error:  # a BundleError is a ValueError
        sys.exit(f"error: {error}")
    try:
        asyncio.run(serve(captioner, settings))
    except ListenError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
