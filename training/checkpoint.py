"""Checkpoints that survive being killed: two generations, each with a SHA-256 written after it.

A state is a dict of tensors, numbers, strings and dicts of these: it is read with weights_only, never as code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from captioner.atomic import replace_file, write_json, write_text

log = logging.getLogger(__name__)


def add_epoch(folder: Path, line: dict[str, Any]) -> None:
    """One line of metrics.jsonl an epoch: what is trained again is written again, not twice."""
    path = folder / "metrics.jsonl"
    old = path.read_text().splitlines() if path.exists() else []
    kept = [text for text in old if text.endswith("}") and json.loads(text)["epoch"] < line["epoch"]]
    write_text(path, "\n".join([*kept, json.dumps(line)]) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of a step; the one before stays until this one is whole, older ones go."""
    path = folder / f"checkpoint-{step:09d}.pt"
    replace_file(path, lambda temporary: torch.save(state, temporary))
    write_json(path.with_suffix(".json"), {"sha256": _sha256(path), "step": step})
    for old in sorted(folder.glob("checkpoint-*.pt"))[:-2]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    for rest in folder.glob(".checkpoint-*"):  # of a process that was killed while it wrote
        rest.unlink()


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, or None."""
    for path in sorted(folder.glob("checkpoint-*.pt"), reverse=True):
        manifest = path.with_suffix(".json")
        if manifest.exists() and json.loads(manifest.read_text())["sha256"] == _sha256(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        log.warning("%s is not whole and is left out", path)
    return None
