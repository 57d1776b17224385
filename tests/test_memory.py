"""What is remembered of photos: bounded in bytes, by content."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner.memory import GridMemory, photo_key


def grid(value: float, cells: int = 4) -> np.ndarray:
    return np.full((cells, 2), value, np.float32)  # 8 bytes a cell


def test_the_least_recently_used_goes_first():
    memory = GridMemory(64)  # two grids of 32 bytes
    memory.put(b"a", grid(1))
    memory.put(b"b", grid(2))
    assert memory.get(b"a")[0, 0] == 1
    memory.put(b"c", grid(3))
    assert (memory.get(b"b"), len(memory), memory.bytes) == (None, 2, 64)
    assert memory.get(b"a") is not None


def test_what_is_too_large_is_not_kept():
    memory = GridMemory(31)
    memory.put(b"a", grid(1))
    assert (memory.get(b"a"), memory.bytes) == (None, 0)
    assert GridMemory(0).get(b"a") is None
    with pytest.raises(ValueError, match="max_bytes must be at least 0, got -1"):
        GridMemory(-1)


def test_a_grid_in_memory_does_not_change():
    memory, mine = GridMemory(64), grid(1)
    memory.put(b"a", mine)
    mine += 1
    assert memory.get(b"a")[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        memory.get(b"a")[0, 0] = 5


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 6)), max_size=40), st.integers(0, 120))
def test_never_more_bytes_than_allowed_and_always_the_last_value(puts, most):
    memory, last = GridMemory(most), {}
    for number, (key, cells) in enumerate(puts):
        memory.put(key.encode(), grid(number, cells))
        if cells * 8 <= most:  # one too large leaves what was there
            last[key] = number
        found = {name: memory.get(name.encode()) for name in "abcdef"}
        assert sum(g.nbytes for g in found.values() if g is not None) == memory.bytes <= most
        assert all(g[0, 0] == last[name] for name, g in found.items() if g is not None)


def test_many_threads():
    memory = GridMemory(320)

    def work(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, 50, 300):
            memory.put(bytes([n]), grid(float(n)))
            found = memory.get(bytes([n]))
            assert found is None or found[0, 0] == n

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert memory.bytes <= 320


def test_keys_tell_photos_apart():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    picture = Image.fromarray(pixels)
    turned = picture.copy()
    turned.getexif()[274] = 6
    different = [pixels, pixels.reshape(2, 8, 3), pixels[::-1], picture, turned, pixels.tobytes(), b""]
    assert len({photo_key(photo) for photo in different}) == len(different)
    assert photo_key(pixels) == photo_key(pixels.copy())
    with pytest.raises(TypeError, match="a photo is"):
        photo_key(3)  # type: ignore[arg-type]
