"""A real server for tests: in this process, on 127.0.0.1, its event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from captioner import Captioner
from services.server import Server, ServerSettings

T = TypeVar("T")


class Running:
    """A server that listens, and a way to run coroutines where it runs."""

    def __init__(self, captioner: Any, settings: ServerSettings):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server: Server = self.run(self._make(captioner, settings))
        self.target = f"127.0.0.1:{self.run(self.server.start())}"

    async def _make(self, captioner: Any, settings: ServerSettings) -> Server:
        return Server(captioner, settings)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def close(self) -> None:
        self.run(self.server.drain())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@contextmanager
def running(captioner: Any, warm: bool = True, max_queue: int = 32) -> Iterator[Running]:
    """A server on a free port; drained at the end."""
    settings = ServerSettings(port=0, max_queue=max_queue, notice_seconds=0.0, grace_seconds=5.0)
    server = Running(captioner, settings)
    try:
        if warm:
            server.run(server.server.warm_up())
        yield server
    finally:
        server.close()


class Held:
    """A captioner whose encoder, once hold() was called, stands still until let_go()."""

    def __init__(self, captioner: Captioner):
        self._captioner = captioner
        self._gate = threading.Event()
        self._gate.set()
        self.entered = threading.Event()
        self.searches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._captioner, name)

    def hold(self) -> None:
        self._gate.clear()
        self.entered.clear()
        self.searches = 0

    def let_go(self) -> None:
        self._gate.set()

    def encode(self, pixels_BHW3: Any) -> Any:
        self.entered.set()
        assert self._gate.wait(30)
        return self._captioner.encode(pixels_BHW3)

    def search(self, grid_BPC: Any, options: Any) -> Any:
        self.searches += 1
        return self._captioner.search(grid_BPC, options)


def jpeg(height: int = 120, width: int = 160, quality: int = 90) -> bytes:
    """A JPEG file with a colour gradient."""
    rows, columns = (np.linspace(0, 255, side).astype(np.uint8) for side in (height, width))
    red_HW, green_HW = np.broadcast_arrays(rows[:, None], columns[None])
    pixels_HW3 = np.stack([red_HW, green_HW, 255 - red_HW], axis=2)
    file = BytesIO()
    Image.fromarray(pixels_HW3).save(file, "JPEG", quality=quality)
    return file.getvalue()
