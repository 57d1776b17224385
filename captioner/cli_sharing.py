"""`captioner save`, `push` and `fetch`: bundles to and from a folder, a .zip, and the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captioner import sharing
from captioner.bundle import VARIABLE, Bundle


def add_sharing(commands: Any) -> None:
    """Add the commands to those of the command line."""
    save = commands.add_parser("save", help="copy a bundle to a folder or a .zip")
    save.set_defaults(run=_save)
    save.add_argument("target", type=Path, metavar="TARGET", help="a folder or .zip that is not there yet")

    push = commands.add_parser("push", help="upload a bundle to the Hugging Face Hub")
    push.set_defaults(run=_push)
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made if it is not there")
    push.add_argument("--private", action="store_true", default=None, help="nobody else may see it")
    push.add_argument("--revision", metavar="R", help="the branch (main)")
    for command in (save, push):
        where = f"a folder or .zip (${VARIABLE}, else the box)"
        command.add_argument("--bundle", type=Path, metavar="BUNDLE", help=where)

    fetch = commands.add_parser("fetch", help="download a bundle from the Hugging Face Hub")
    fetch.set_defaults(run=_fetch)
    fetch.add_argument("repo_id", metavar="REPO_ID", help="owner/name")
    fetch.add_argument("target", type=Path, metavar="TARGET", help="a folder or .zip that is not there yet")
    fetch.add_argument("--revision", metavar="R", help="a branch, tag or commit (main)")
    fetch.add_argument("--version", metavar="V", help="accept no other: 12 digits or, against malice, all 64")


def _save(options: argparse.Namespace) -> int:
    bundle = sharing.load(options.bundle)
    return _saved(bundle, sharing.save(bundle, options.target))


def _push(options: argparse.Namespace) -> int:
    bundle = sharing.load(options.bundle)
    commit = sharing.push_to_hub(bundle, options.repo_id, options.private, revision=options.revision)
    pins = f"--revision {commit} --version {sharing.sha256(bundle.folder)}"
    print(f"{bundle.name}@{bundle.version}: captioner fetch {options.repo_id} TARGET {pins}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    bundle = sharing.from_hub(options.repo_id, options.revision, options.version)
    return _saved(bundle, sharing.save(bundle, options.target))


def _saved(bundle: Bundle, target: Path) -> int:
    print(f"{target}: {bundle.name}@{bundle.version}")
    return 0
