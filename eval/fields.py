"""Fields of a JSON file, checked as they are read: a mistake is a ValueError that names the file, entry and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_KINDS: dict[type, str] = {int: "an integer", str: "a string", list: "a list", dict: "an object"}


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError names a file that cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:  # bad JSON and bad UTF-8
        raise ValueError(f"{path}: not JSON: {e}") from e


def field(record: Any, where: str, name: str, kind: type) -> Any:
    """record[name], checked; `where` is the record's own place in the file, for the error."""
    if not isinstance(record, dict):
        raise ValueError(f"{where or 'the file'} must be an object, got {type(record).__name__}")
    place = f"{where}.{name}" if where else name
    if name not in record:
        raise ValueError(f"{place} is missing")
    return checked(record[name], place, kind)


def checked(value: Any, place: str, kind: type) -> Any:
    """The value itself if it is an int, str, list or dict as `kind` says; a bool is no int."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{place} must be {_KINDS[kind]}, got {value!r:.60}")
    return value
