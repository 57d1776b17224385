"""A model on disk: one folder with all that is needed to run it, nothing executable, every file under a SHA-256.

Written by export, sealed with seal(), read with Bundle.open(). Only files that the manifest names are ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from captioner.atomic import write_text
from captioner.config import ModelConfig, SearchOptions, at_least
from captioner.lexicon import Lexicon
from captioner.vocabulary import Vocabulary

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ANSWERER_FILES = ["question_vocabulary.json", "answers.json"]

BOX = Path(__file__).parent / "box"
"""The bundle that comes with the package."""
VARIABLE = "CAPTIONER_BUNDLE"
"""Of the environment: which bundle is meant where none is given, instead of the box."""

Precision = Literal["fp32", "int8"]
Graph = Literal["encoder", "captioner", "answerer"]


class BundleError(ValueError):
    """A folder that is not a whole, unchanged bundle; the message names the folder and the file."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle: every file is there and unchanged."""

    folder: Path
    name: str
    version: str
    """The first 12 hexadecimal digits of the manifest's SHA-256: it changes whenever any file does."""
    model: ModelConfig
    grid: tuple[int, int, int]
    """Rows, columns and channels of what the encoder sees."""
    search: SearchOptions
    """The defaults of this model."""
    lexicon: Lexicon
    scores: Mapping[str, Any]
    """What was measured: split, metric implementation, k, length rule; empty if nothing was."""
    precisions: tuple[Precision, ...]
    """For which all graphs are there."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Words of captions."""
        return self.lexicon.captions

    @property
    def question_vocabulary(self) -> Vocabulary:
        """Words of questions."""
        return self.lexicon.questions

    @property
    def answers(self) -> tuple[str, ...]:
        """Those it knows."""
        return self.lexicon.answers

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Those that the model is made of."""
        return _graphs(self.model)

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Check every hash and read the settings; raises BundleError with one sentence."""
        folder = Path(folder)
        hashes, version = read_manifest(folder)
        for name, expected in hashes.items():
            if _sha256(folder, name) != expected:
                raise BundleError(f"bundle {folder}: {name} was changed after the bundle was sealed")
        config = _read_json(folder, "config.json", hashes)
        if (found := config.get("format_version")) != FORMAT_VERSION:
            raise BundleError(f"bundle {folder}: config.json has format_version {found}, here it is {FORMAT_VERSION}")
        try:
            model = ModelConfig.from_dict(config["model"])
            precisions = tuple(p for p in get_args(Precision) if all(_file(g, p) in hashes for g in _graphs(model)))
            if not precisions:
                raise ValueError(f"no precision has all of the graphs {', '.join(_graphs(model))}")
            rows, columns, channels = (int(n) for n in config["grid"])
            at_least("grid", min(rows, columns, channels), 1)
            for file in (["vocabulary.json"] if model.captions else []) + (ANSWERER_FILES if model.answerer else []):
                _read_json(folder, file, hashes)
            lexicon = Lexicon.load(folder, model)
            return cls(
                folder=folder,
                name=str(config["name"]),
                version=version,
                model=model,
                grid=(rows, columns, channels),
                search=SearchOptions(**config["search"]),
                lexicon=lexicon,
                scores=_read_json(folder, "scores.json", hashes) if "scores.json" in hashes else {},
                precisions=precisions,
            )
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError) as e:
            why = f"{e.args[0]} is missing" if isinstance(e, KeyError) else e
            raise BundleError(f"bundle {folder}: its settings or vocabulary cannot be used: {why}") from e

    @property
    def precision(self) -> Precision:
        """The one that is run where none is asked for: int8 if it is there."""
        return "int8" if "int8" in self.precisions else "fp32"

    def graph(self, which: Graph, precision: Precision) -> Path:
        """The ONNX file of one of the model's graphs."""
        if precision not in self.precisions:
            has = " and ".join(self.precisions)
            raise BundleError(f"bundle {self.folder} has the precision {has}, not {precision}")
        return self.folder / _file(which, precision)


def default_bundle() -> Path:
    """Where the bundle lies that is meant where none is given; raises BundleError if this copy came without the box."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if not (BOX / MANIFEST).is_file():
        raise BundleError(f"no bundle: give one (--bundle) or set {VARIABLE}; this copy came without its own in {BOX}")
    return BOX


def seal(folder: str | Path) -> str:
    """Write the manifest over every file in the folder, at once or not at all; return the version."""
    folder = Path(folder)
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and f.name != MANIFEST and f.name[0] != ".")
    manifest = {"files": {name: _sha256(folder, name) for name in names}}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(folder / MANIFEST, text)
    return _version(text.encode())


def _graphs(model: ModelConfig) -> tuple[Graph, ...]:
    parts: tuple[tuple[Graph, bool], ...] = (
        ("encoder", True),
        ("captioner", model.captions),
        ("answerer", model.answerer is not None),
    )
    return tuple(graph for graph, there in parts if there)


def _file(which: Graph, precision: Precision) -> str:
    return f"{which}.onnx" if precision == "fp32" else f"{which}.{precision}.onnx"


def _version(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:12]


def read_manifest(folder: Path) -> tuple[dict[str, str], str]:
    """Hashes by file name, and the version; raises BundleError."""
    if not folder.is_dir():
        raise BundleError(f"no bundle at {folder}: there is no such folder")
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as e:
        raise BundleError(f"no bundle at {folder}: {MANIFEST} cannot be read") from e
    try:
        hashes = {str(name): str(value) for name, value in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"bundle {folder}: {MANIFEST} is not a list of files with their hashes") from e
    for name in hashes:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise BundleError(f"bundle {folder}: {MANIFEST} names a file outside the folder: {name!r}")
    return hashes, _version(text)


def _sha256(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise BundleError(f"bundle {folder}: {name} is missing or cannot be read") from e


def _read_json(folder: Path, name: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    if name not in hashes:
        raise BundleError(f"bundle {folder}: {name} is not in {MANIFEST}")
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as e:
        raise BundleError(f"bundle {folder}: {name} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise BundleError(f"bundle {folder}: {name} must hold an object, got {type(value).__name__}")
    return value
