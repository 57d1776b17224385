"""What the encoder saw in the last photos, so that a second question about one costs no second look."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.config import at_least
from captioner.images import Photo

DEFAULT_BYTES = 64 * 2**20


class GridMemory:
    """Grids [P, C] by a digest of the photo's bytes; the least recently used go first. Safe to use from threads."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES):
        """max_bytes: of all grids together; 0 remembers nothing."""
        at_least("max_bytes", max_bytes, 0)
        self.max_bytes, self.bytes = max_bytes, 0
        self._grids: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._grids)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The grid of a photo, or None."""
        with self._lock:
            grid_PC = self._grids.get(key)
            if grid_PC is not None:
                self._grids.move_to_end(key)
            return grid_PC

    def put(self, key: bytes, grid_PC: NDArray[np.float32]) -> None:
        """Remember a grid, and forget others to make room; one that is larger than all the room is not kept."""
        if grid_PC.nbytes > self.max_bytes:
            return
        grid_PC = grid_PC.copy()  # a view would keep the whole batch in memory
        grid_PC.flags.writeable = False
        with self._lock:
            old = self._grids.pop(key, None)
            self.bytes += grid_PC.nbytes - (0 if old is None else old.nbytes)
            self._grids[key] = grid_PC
            while self.bytes > self.max_bytes:
                self.bytes -= self._grids.popitem(last=False)[1].nbytes


def photo_key(photo: Photo) -> bytes:
    """A SHA-256 of what a photo shows: of a file's bytes, or of pixels. The kind is part of it."""
    if isinstance(photo, bytes):
        return hashlib.sha256(b"file" + photo).digest()
    if isinstance(photo, Image.Image):
        orientation = repr(photo.getexif().get(274))
        return _digest("picture", photo.mode, photo.size, orientation, photo.info.get("transparency"), photo.tobytes())
    if isinstance(photo, np.ndarray):
        return _digest("array", photo.dtype, photo.shape, np.ascontiguousarray(photo).tobytes())
    raise TypeError(f"a photo is bytes, a path, a Pillow picture or a uint8 array, got {type(photo).__name__}")


def _digest(*parts: object) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode() + b"\0")
    return digest.digest()
