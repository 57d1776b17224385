"""A server of our own for a measurement: python -m services in a process, on free ports, stopped at the end."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_SECONDS, STOP_SECONDS = 120.0, 40.0
_BATCHES = re.compile(r"^captioner_batch_images_(sum|count)\{[^}]*stage=\"(\w+)\"[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class OwnServer:
    """Where it is."""

    address: str
    metrics_port: int

    def batches(self) -> dict[str, tuple[float, float]]:
        """Stage -> images and runs since its start; subtract two of them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            found = _BATCHES.findall(page.read().decode())
        values = {(stage, what): float(value) for what, stage, value in found}
        return {stage: (values[stage, "sum"], values[stage, "count"]) for stage, what in values if what == "sum"}


@contextmanager
def own_server(bundle: Path, log: Path, flags: Sequence[str] = ()) -> Iterator[OwnServer]:
    """A server that serves a bundle, warm; RuntimeError if it does not start. flags: further ones of its command."""
    port, metrics_port = free_ports(2)
    command = [sys.executable, "-m", "services", "--bundle", str(bundle), "--port", str(port), "--log", "text"]
    command += ["--metrics-port", str(metrics_port), *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        address = f"127.0.0.1:{port}"
        _wait_until_serving(process, address, log)
        yield OwnServer(address, metrics_port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_serving(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = monotonic() + START_SECONDS
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        while process.poll() is None and monotonic() < end:
            try:
                if health.Check(health_pb2.HealthCheckRequest(), timeout=1).status == 1:
                    return
            except grpc.RpcError:
                pass
            sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-1000:]}")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as open_now:
        sockets = [open_now.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
