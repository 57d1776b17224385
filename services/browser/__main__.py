"""python -m services.browser [--bundle DIR] --out SITE [--serve PORT]: the page without a server behind it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from captioner import sharing
from services.browser.packages import runtime_files
from services.browser.serving import serving
from services.browser.site import build, sizes


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, write the site, say how large it is, and serve it if that is asked for."""
    given = _parser().parse_args(arguments)
    try:
        build(sharing.load(given.bundle), runtime_files(given.packages), given.out)
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    for name, raw, packed in sizes(given.out):
        print(f"{name:32} {raw / 1e6:8.3f} MB  {packed / 1e6:8.3f} MB gzip")
    if given.serve is None:
        return
    with serving(given.out, given.serve) as (address, thread):
        print(f"serving {given.out} on {address}", flush=True)
        with suppress(KeyboardInterrupt):
            thread.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.browser", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="default: the model that comes with the package")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the site: new, or one that this made")
    parser.add_argument("--packages", type=Path, default=Path(".cache/browser"), help="where npm installs")
    parser.add_argument("--serve", type=int, metavar="PORT", help="serve the site on 127.0.0.1; 0 for any free port")
    return parser


if __name__ == "__main__":
    main()
