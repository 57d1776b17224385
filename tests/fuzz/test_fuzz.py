"""The targets of `python -m tests.fuzz` on their seeds, on what was found, and on the same mutations every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed")

from captioner import Captioner
from tests.fuzz import images, requests

FOUND = Path(__file__).with_name("found")
"""A folder for each target; a file is an input that once did harm."""
MUTATIONS = 20
"""Of each seed."""


def inputs(name: str, seeds: dict[str, bytes]) -> Iterator[bytes]:
    """Seeds, finds, and mutations of both."""
    known = [*seeds.values(), *(path.read_bytes() for path in sorted((FOUND / name).glob("*")))]
    yield from known
    pick = random.Random(0)
    for data in known:
        for _ in range(MUTATIONS):
            yield mutated(data, pick)


def mutated(data: bytes, pick: random.Random) -> bytes:
    """Bits turned, or a piece cut out, repeated or replaced by noise."""
    if pick.random() < 0.4:
        changed = bytearray(data)
        for _ in range(pick.randint(1, 8)):
            changed[pick.randrange(len(changed))] ^= 1 << pick.randrange(8)
        return bytes(changed)
    begin, end = sorted(pick.randrange(len(data) + 1) for _ in range(2))
    piece = pick.choice((b"", 2 * data[begin:end], pick.randbytes(end - begin)))
    return data[:begin] + piece + data[end:]


def test_images() -> None:
    for data in inputs("images", images.SEEDS):
        images.one_input(data)
        images.one_input(images.repaired(data))


def test_requests(tiny_bundle_answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Captioner.load(tiny_bundle_answers, threads=1)
    monkeypatch.setattr(requests, "captioner", lambda: loaded)
    for data in inputs("requests", requests.SEEDS):
        requests.one_input(data)
        requests.one_input(requests.repaired(data))


def test_a_png_with_a_wrong_checksum_is_repaired() -> None:
    png = images.SEEDS["png"]
    broken = png[:29] + bytes(4) + png[33:]
    assert images.repaired(broken) == png
    assert images.repaired(b"no png") == b"no png"
