"""A real server in a process of its own, for tests and commands that kill it, load it or watch it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import grpc

from captioner.v1 import captioner_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120.0


def tiny_bundle() -> Path:
    """The bundle of tests.conftest that captions and answers, for commands, which have no fixtures; made without
    torch in this process."""
    code = "from tests.conftest import TINY, TINY_ANSWERER, _bundle, replace\n"
    code += "print(_bundle('answers', replace(TINY, answerer=TINY_ANSWERER)))"
    return Path(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).splitlines()[-1])


class Usage(NamedTuple):
    """What a process has, as the kernel counts it, and its event loop."""

    rss_bytes: int
    descriptors: int
    threads: int
    tasks: int

    def within(self, other: Usage, rss_bytes: int, threads: int = 4) -> bool:
        """Whether it has no more than another time, apart from so much memory and so many threads of gRPC's pool."""
        spare = Usage(rss_bytes, 0, threads, 0)
        return all(own <= most + more for own, most, more in zip(self, other, spare, strict=True))


class ServerProcess:
    """`python -m services` on free ports of 127.0.0.1: said() waits for lines of its log.

    log: a file descriptor for the standard error output, which then cannot be read here: ports must be given.
    """

    def __init__(self, *arguments: str | Path, log: int | None = None, environment: Mapping[str, str] | None = None):
        given = [sys.executable, "-m", "services", "--log", "text", "--port", "0", "--metrics-port", "0"]
        given += [*map(str, arguments)]
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.process = subprocess.Popen(
            given, cwd=ROOT, env=surroundings, text=log is None, stderr=subprocess.PIPE if log is None else log
        )
        self.lines: list[str] = []
        if log is None:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def said(self, pattern: str, times: int = 1) -> str:
        """Wait until that many lines match, return the last one's group."""
        end = time.monotonic() + START_SECONDS
        while True:
            ended = self.process.poll() is not None
            found = [match[1] for line in list(self.lines) if (match := re.search(pattern, line))]
            if len(found) >= times:
                return found[-1]
            if ended or time.monotonic() > end:
                raise AssertionError(f"{pattern} was not said:\n" + "".join(self.lines[-20:]))
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; the exit status."""
        self.send(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Whatever state it is in."""
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


class Served(NamedTuple):
    """A server that serves, and where."""

    process: ServerProcess
    target: str
    metrics_port: int

    def metrics(self) -> dict[str, float]:
        """Each sample by its name and labels, as Prometheus reads them."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def usage(self) -> Usage:
        """Now; Linux only."""
        tasks, status = self.metrics()["captioner_tasks"], self._status()
        descriptors = len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))
        return Usage(_bytes(status["VmRSS"]), descriptors, int(status["Threads"]), int(tasks))

    def peak(self) -> int:
        """The most bytes it ever held."""
        return _bytes(self._status()["VmHWM"])

    def _status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.process.process.pid}/status").read_text().splitlines()
        return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1), *options])

    def answers(self, request: Any) -> bool:
        """Whether a new caller gets captions."""
        with self.channel() as channel:
            stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
            return bool(stub.CaptionImage(request, timeout=20).captions)


def _bytes(text: str) -> int:
    return int(text.removesuffix(" kB")) * 1024


@contextmanager
def serving(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """A server once it serves; killed at the end, if it still runs."""
    process = ServerProcess(*arguments, environment=environment)
    try:
        target = process.said(r"listening on ([\d.:]+)")
        port = process.said(r"metrics on http://[\d.]+:(\d+)/")
        process.said(r"serving (\S+) \w+, \w+ on")
        yield Served(process, target, int(port))
    finally:
        process.kill()
