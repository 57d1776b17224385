"""A real server for tests: in this process, on 127.0.0.1, its event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from captioner import Captioner
from captioner.memory import GridMemory
from services.metrics import Metrics
from services.models import Models
from services.server import Server
from services.settings import EngineSettings, ServerSettings

T = TypeVar("T")


class Running:
    """A server that listens, and a way to run coroutines where it runs."""

    def __init__(self, make: Callable[[], Server]):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server: Server = self.run(self._made(make))
        self.target = f"127.0.0.1:{self.run(self.server.start())}"

    async def _made(self, make: Callable[[], Server]) -> Server:
        return make()

    @property
    def admitted(self) -> int:
        """Pictures let in now."""
        return self.server.admission.admitted

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, run where the server runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def begin(self, work: Coroutine[Any, Any, T]) -> None:
        """Begin a coroutine there."""
        asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        """Drain."""
        self.run(self.server.drain())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@contextmanager
def running(
    served: Any,
    warm: bool = True,
    max_queue: int = 32,
    engine: EngineSettings | None = None,
    watchers: Sequence[Any] = (),
    **settings: Any,
) -> Iterator[Running]:
    """A server on a free port, drained at the end.

    served: a captioner (or what looks like one), the folder of a bundle, or several folders. settings: of
    ServerSettings.
    """
    chosen = ServerSettings(**{"port": 0, "notice_seconds": 0.0, "grace_seconds": 5.0, **settings})
    engine = engine or EngineSettings(max_queue=max_queue, threads=1, memory_bytes=0)

    def make() -> Server:
        metrics = Metrics()
        if isinstance(served, Path | list):
            models = Models(served if isinstance(served, list) else [served], engine, metrics)
        else:
            models = Models([served.bundle.folder], engine, metrics, lambda bundle: served)
        return Server(models, chosen, engine.max_queue, metrics, tuple(watchers))

    server = Running(make)
    try:
        if warm:
            server.run(server.server.warm_up())
        yield server
    finally:
        server.close()


Scraped = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int | None) -> Scraped:
    """Every sample by name and labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(scraped: Scraped, metric: str, **labels: str) -> float:
    """Of one of ours."""
    return scraped[f"captioner_{metric}", frozenset(labels.items())]


class Held:
    """A captioner whose encoder, once hold() was called, stands still until let_go(); it remembers nothing."""

    def __init__(self, captioner: Captioner):
        self._captioner = captioner
        self._gate = threading.Event()
        self._gate.set()
        self.memory = GridMemory(0)
        self.entered = threading.Event()
        self.searches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._captioner, name)

    def hold(self) -> None:
        """Let nothing through."""
        self._gate.clear()
        self.entered.clear()
        self.searches = 0

    def let_go(self) -> None:
        """Let everything through."""
        self._gate.set()

    def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
        """As the captioner's."""
        self.entered.set()
        assert self._gate.wait(30)
        return self._captioner.encode(pixels_BHW3, stop)

    def search(self, grid_BPC: Any, options: Any, stop: Any = None) -> Any:
        """As the captioner's."""
        self.searches += 1
        return self._captioner.search(grid_BPC, options, stop)


def jpeg(height: int = 120, width: int = 160, quality: int = 90, shade: int = 0) -> bytes:
    """A JPEG file with a colour gradient; another shade is another picture."""
    rows, columns = (np.linspace(0, 255, side).astype(np.uint8) for side in (height, width))
    red_HW, green_HW = np.broadcast_arrays(rows[:, None], columns[None])
    pixels_HW3 = np.stack([red_HW, green_HW, 255 - red_HW], axis=2) + np.uint8(shade)
    file = BytesIO()
    Image.fromarray(pixels_HW3).save(file, "JPEG", quality=quality)
    return file.getvalue()


def failure(call: Callable[[], Any]) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The code of a failing call, and its details by name of their type."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return told(caught.value)


def told(error: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The code of a failed call, and its details by name of their type; its request id too."""
    status = rpc_status.from_call(error)
    details: dict[str, Any] = {"message": error.details()}
    details |= unpacked(status.details if status else ())
    details["request_id"] = dict(error.trailing_metadata() or ()).get("x-request-id")
    return error.code(), details


def unpacked(packed: Any) -> dict[str, Any]:
    """The details of a status by name of their type."""
    details = {}
    for message in packed:
        kind = getattr(error_details_pb2, message.TypeName().rsplit(".", 1)[1])
        details[kind.DESCRIPTOR.name] = detail = kind()
        assert message.Unpack(detail)
    if "ErrorInfo" in details:
        assert details["ErrorInfo"].domain == "captioner"
    return details


def reason(details: dict[str, Any]) -> str:
    """The reason of a failure, or nothing."""
    return details["ErrorInfo"].reason if "ErrorInfo" in details else ""


def fields(details: dict[str, Any]) -> set[str]:
    """The fields that a failure names."""
    return (
        {violation.field for violation in details["BadRequest"].field_violations} if "BadRequest" in details else set()
    )


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
