"""What a server in a process of its own survives: nothing is lost or left behind, the next request is answered.

Reloads and drains of a server in this process: test_lifecycle. One bad request at a time: test_hostile. All of it at
once, for as long as one likes: `python -m tests.soak`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from captioner import Bundle
from captioner.bundle import seal
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.load.own_server import free_ports
from tests.cancel_calls import QUEUE, leave_nothing
from tests.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    WINDOW,
    Http2,
    frame,
    grpc_status,
    literals,
    message,
)
from tests.running_server import failure, jpeg, reason, told, wait_until
from tests.server_process import ROOT, Served, ServerProcess, serving

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")

MEGABYTE = 2**20
CAPTION = pb.CaptionImageRequest(image=jpeg())
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def stub_of(channel: Any) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


def admitted(server: Served) -> float:
    """Pictures that were let in and are not done."""
    return server.metrics()["captioner_admitted_images"]


# Callers who leave


@pytest.fixture(scope="module")
def server(tiny_bundle_answers: Path) -> Iterator[Served]:
    with serving("--bundle", tiny_bundle_answers, "--threads", "1", *QUEUE) as served:
        assert served.answers(CAPTION)
        yield served
        assert served.answers(CAPTION)
        assert served.process.stop() == 0


def test_cancelled_calls_leave_nothing(server: Served) -> None:
    print(leave_nothing(server, 10_000))


CLIENT = """
import itertools, sys, grpc
from captioner.v1 import captioner_pb2 as pb, captioner_pb2_grpc
picture = sys.stdin.buffer.read()
def pictures():
    for n in itertools.count():
        image = picture[:2] + b"\\xff\\xfe\\0\\6" + n.to_bytes(4, "big") + picture[2:]
        yield pb.StreamCaptionImagesRequest(id=str(n), request=pb.CaptionImageRequest(image=image))
channel = grpc.insecure_channel(sys.argv[1])
for response in captioner_pb2_grpc.CaptionServiceStub(channel).StreamCaptionImages(pictures()):
    assert response.response.captions, response
    print(response.id, flush=True)
"""
"""A comment in each picture makes another file of it."""


def streaming(target: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that streams pictures without end."""
    (folder / "picture.jpg").write_bytes(CAPTION.image)
    with (folder / "picture.jpg").open("rb") as picture:
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, target], cwd=ROOT, stdin=picture, stdout=subprocess.PIPE, stderr=sys.stderr
        )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "killed after it stood still"])
def test_clients_that_die_mid_stream(server: Served, how: signal.Signals, tmp_path: Path) -> None:
    clients = [streaming(server.target, tmp_path) for _ in range(3)]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline()
        for client in clients:
            client.send_signal(how)
        assert server.answers(CAPTION)  # others are answered, whether the dead are noticed or not
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    wait_until(lambda: admitted(server) == 0)
    assert server.answers(CAPTION)


# Callers who mean harm

METHOD = "/captioner.v1.CaptionService/GetModel"
REQUEST = literals({":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": "x", "te": "trailers",
                    "content-type": "application/grpc"})  # fmt: skip


def resets() -> bytes:
    """Requests that are taken back at once (CVE-2023-44487)."""
    opened = [frame(HEADERS, END_HEADERS, n, REQUEST) + frame(RESET, 0, n, b"\0\0\0\x08") for n in range(1, 20_001, 2)]
    return b"".join(opened)


def endless_headers() -> bytes:
    """A request whose headers do not end (CVE-2024-24549 and others)."""
    return frame(HEADERS, 0, 1, REQUEST) + frame(CONTINUATION, 0, 1, literals({"x": "y" * 16_000})) * 2000


FLOODS: dict[str, Callable[[], bytes]] = {
    "requests taken back": resets,
    "headers without end": endless_headers,
    "pings": lambda: frame(PING, 0, 0, bytes(8)) * 20_000,
    "settings": lambda: frame(SETTINGS, 0, 0, b"\0\1\0\0\x10\0") * 20_000,
    "empty data": lambda: frame(HEADERS, END_HEADERS, 1, REQUEST) + frame(DATA, 0, 1) * 50_000,
    "a window too wide": lambda: frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 10,
    "frames nobody knows": lambda: frame(99, 255, 0, bytes(100)) * 10_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods(server: Served, flood: str) -> None:
    before = server.usage()
    with Http2(server.target, 10) as connection:
        with suppress(OSError):  # the server hangs up, or reads no more
            connection.send(FLOODS[flood]())
        assert server.answers(CAPTION)
    wait_until(lambda: server.usage().within(before, 64 * MEGABYTE), 30)


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15)])
def test_a_bomb_is_not_unpacked(server: Served, encoding: str, window: int) -> None:
    packer = zlib.compressobj(9, wbits=window)
    begin = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = begin + again * 4095 + packer.flush()
    before = server.peak()
    with Http2(server.target, 30) as connection:
        connection.call(METHOD, message(bomb, True), headers={"grpc-encoding": encoding})
        assert grpc_status(connection.headers_until_end()) == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert server.peak() < before + 64 * MEGABYTE
    assert server.answers(CAPTION)


# Stopping


def slow_picture(number: int) -> bytes:
    """A PNG that takes half a second to read; each number another file."""
    text = b"tEXt" + b"number\0%d" % number
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return SLOW[:33] + chunk + SLOW[33:]  # after the header


def drawn_png(width: int, height: int) -> bytes:
    rows_HW3 = np.zeros((height, width, 3), np.uint8)
    rows_HW3[:, :, 0] = np.arange(height)[:, None] % 256
    file = BytesIO()
    Image.fromarray(rows_HW3).save(file, "PNG", compress_level=1)
    return file.getvalue()


SLOW = drawn_png(6000, 5000)


def test_sigterm_with_32_in_flight(tiny_bundle: Path) -> None:
    with serving("--bundle", tiny_bundle, "--threads", "1") as server, server.channel() as channel:
        stub = stub_of(channel)
        requests = [pb.CaptionImageRequest(image=slow_picture(n)) for n in range(4)]
        calls = [stub.CaptionImage.future(request, timeout=120) for request in requests]
        wait_until(lambda: admitted(server) == 4)  # two are read at a time, so that those behind them wait
        requests = [pb.CaptionImageRequest(image=jpeg(shade=n)) for n in range(28)]
        calls += [stub.CaptionImage.future(request, timeout=120) for request in requests]
        wait_until(lambda: admitted(server) == 32 or calls[0].done())
        assert not any(call.done() for call in calls)
        server.process.send(signal.SIGTERM)
        refused: set[tuple[grpc.StatusCode, str]] = set()

        def refuses() -> bool:
            """Answered as long as the notice lasts, and UNAVAILABLE ever after."""
            try:
                stub.GetModel(pb.GetModelRequest(), timeout=20)
            except grpc.RpcError as error:
                code, details = told(error)
                refused.add((code, reason(details)))
            return bool(refused)

        wait_until(refuses)
        assert refused <= {(UNAVAILABLE, "DRAINING"), (UNAVAILABLE, "")}  # the second if it has ended already
        assert all(call.result().captions for call in calls)
        assert server.process.process.wait(60) == 0
        assert failure(lambda: stub.GetModel(pb.GetModelRequest(), timeout=5))[0] is UNAVAILABLE


# Reloading, and models that are damaged


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "model"))


def changed(folder: Path, number: int) -> str:
    """Make another version of the bundle; which."""
    (folder / "scores.json").write_text(f'{{"number": {number}}}')
    seal(folder)
    return Bundle.open(folder).version


def test_reloads_under_load_lose_no_call(folder: Path) -> None:
    done, failures = threading.Event(), []
    seen: Counter[str] = Counter()

    def caller(server: Served, number: int) -> None:
        with server.channel() as channel:
            while not done.is_set():
                request = pb.CaptionImageRequest(image=jpeg(shade=number % 250))
                number += 1
                try:
                    seen[stub_of(channel).CaptionImage(request, timeout=60).model_version] += 1
                except grpc.RpcError as error:
                    failures.append(error)

    def stream(server: Served) -> None:
        """One stream, longer than any version."""

        def pictures() -> Iterator[Any]:
            while not done.is_set():
                yield pb.StreamCaptionImagesRequest(id="1", request=CAPTION)
                time.sleep(0.02)

        with server.channel() as channel:
            try:
                for response in stub_of(channel).StreamCaptionImages(pictures(), timeout=120):
                    seen[f"stream {response.response.model_version}"] += 1
            except grpc.RpcError as error:
                failures.append(error)

    with serving("--bundle", folder, "--threads", "1") as server:
        versions = [Bundle.open(folder).version]
        callers = [threading.Thread(target=caller, args=(server, 80 * n)) for n in range(3)]
        callers.append(threading.Thread(target=stream, args=(server,)))
        for thread in callers:
            thread.start()
        try:
            for number in range(3):
                wait_until(lambda: seen[versions[-1]] and seen[f"stream {versions[-1]}"], 60)
                versions.append(changed(folder, number))
                server.process.send(signal.SIGHUP)
            wait_until(lambda: seen[versions[-1]] and seen[f"stream {versions[-1]}"], 60)
        finally:
            done.set()
            for thread in callers:
                thread.join()
        assert not failures
        metrics = server.metrics()
        assert metrics['captioner_reloads_total{outcome="ok"}'] == 3
        assert metrics['captioner_reloads_total{outcome="failed"}'] == 0
        [served] = [name for name in metrics if name.startswith("captioner_model_info")]
        assert versions[-1] in served
        assert server.process.stop() == 0


def a_byte(folder: Path) -> None:
    graph = folder / "encoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)


def half(folder: Path) -> None:
    graph = folder / "encoder.onnx"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])


def half_and_sealed(folder: Path) -> None:
    """The hashes are right, so that only onnxruntime sees it."""
    half(folder)
    seal(folder)


def no_json(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\x00\xff")


DAMAGE = [a_byte, half, half_and_sealed, no_json]


@pytest.mark.parametrize("damage", [a_byte, half_and_sealed])
def test_a_damaged_model_is_not_started(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    process = ServerProcess("--bundle", folder, "--precision", "fp32")
    try:
        assert process.process.wait(60) == 1
        wait_until(lambda: process.lines and process.lines[-1].startswith("error: "))
        assert str(folder) in process.lines[-1]
        assert "Traceback" not in "".join(process.lines)
    finally:
        process.kill()


def test_a_damaged_model_is_not_reloaded(folder: Path, tiny_bundle: Path) -> None:
    with serving("--bundle", folder, "--precision", "fp32", "--threads", "1") as server:
        for number, damage in enumerate(DAMAGE, 1):
            damage(folder)
            server.process.send(signal.SIGHUP)
            assert str(folder) in server.process.said("not reloaded: (.*)", number)
            wait_until(lambda n=number: server.metrics()['captioner_reloads_total{outcome="failed"}'] == n)
            assert server.answers(CAPTION)
            shutil.rmtree(folder)
            shutil.copytree(tiny_bundle, folder)
        assert "Traceback" not in "".join(server.process.lines)
        assert server.metrics()['captioner_reloads_total{outcome="ok"}'] == 0
        assert server.process.stop() == 0


# What surrounds it


@pytest.mark.parametrize(("log", "calls"), [("full", 500), ("standing", 11_000)])
def test_a_log_that_takes_nothing(tiny_bundle: Path, log: str, calls: int) -> None:
    reader, writer = os.pipe() if log == "standing" else (-1, os.open("/dev/full", os.O_WRONLY))
    try:
        with logging_to(writer, tiny_bundle) as server:
            asyncio.run(get_models(server.target, 200))
            before = server.usage()
            asyncio.run(get_models(server.target, calls))
            assert server.answers(CAPTION)
            wait_until(lambda: server.metrics()["captioner_log_lines_lost"] > 0)
            wait_until(lambda: server.usage().within(before, 32 * MEGABYTE), 30)
            assert server.process.stop() == 0
    finally:
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 kB of its own, for those who may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_has_room_again(tiny_bundle: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, (disk / "log").open("ab", buffering=0) as log:
        with logging_to(log.fileno(), tiny_bundle, "--log", "json") as server:
            (disk / "other").write_bytes(bytes(49_152))
            asyncio.run(get_models(server.target, 100))  # more than is left, less than there will be room for
            wait_until(lambda: server.metrics()["captioner_log_lines_lost"] > 0)
            assert server.answers(CAPTION)
            (disk / "other").unlink()
            lost = server.metrics()["captioner_log_lines_lost"]
            asyncio.run(get_models(server.target, 20))
            assert server.process.stop() == 0
        lines = (disk / "log").read_bytes().splitlines()
    broken = [number for number, line in enumerate(lines) if not (line.startswith(b'{"time"') and line.endswith(b"}"))]
    assert len(broken) <= lost
    last = [json.loads(line)["message"] for line in lines[max(broken, default=-1) + 1 :]]
    assert sum("GetModel" in message for message in last) >= 20


@contextmanager
def logging_to(descriptor: int, bundle: Path, *flags: str) -> Iterator[Served]:
    """A server that is up and whose log goes there."""
    port, metrics_port = free_ports(2)
    ports = "--port", str(port), "--metrics-port", str(metrics_port)
    process = ServerProcess("--bundle", bundle, "--threads", "1", *ports, *flags, log=descriptor)
    server = Served(process, f"127.0.0.1:{port}", metrics_port)
    try:
        wait_until(lambda: up(server), 60)
        yield server
    finally:
        process.kill()


def up(server: Served) -> bool:
    try:
        return server.answers(CAPTION)
    except grpc.RpcError:
        return False


async def get_models(target: str, count: int) -> None:
    """So many calls, each a line of the log."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = stub_of(channel)

        async def caller() -> None:
            for _ in range(count // 20):
                await stub.GetModel(pb.GetModelRequest(), timeout=60)

        await asyncio.gather(*(caller() for _ in range(20)))


HOUR = 3600


class WallClock:
    """The wall clock of a process, which a test may set as an administrator or a time server does.

    Not libfaketime: 0.9.10 gets absolute sleeps on the monotonic clock wrong, and Python's are such.
    """

    def __init__(self, folder: Path):
        if (compiler := shutil.which("cc")) is None or sys.platform != "linux":
            pytest.skip("there is no C compiler, or this is not Linux")
        self._offset, library = folder / "offset", folder / "wall_clock.so"
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O", "-o", library, source, "-ldl"], check=True)
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def jump(self, hours: int) -> None:
        """To so many hours from the truth."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("=q", hours * HOUR))


def test_the_clock_jumps_by_hours(tiny_bundle: Path, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    with (
        serving("--bundle", tiny_bundle, "--threads", "1", environment=clock.environment) as server,
        server.channel() as channel,
    ):
        stub = stub_of(channel)
        for number, hours in enumerate((7, -7, 0)):
            requests = [pb.CaptionImageRequest(image=slow_picture(100 * number + n)) for n in range(2)]
            calls = [stub.CaptionImage.future(request, timeout=60) for request in requests]
            late = stub.CaptionImage.future(pb.CaptionImageRequest(image=slow_picture(100 * number + 99)), timeout=0.1)
            wait_until(lambda: admitted(server) > 0)
            clock.jump(hours)
            begin = time.monotonic()
            # The second where the calls before it leave it no time.
            assert late.exception().code().name in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
            assert time.monotonic() - begin < 10
            assert all(call.result().captions for call in calls)  # none is cut off, none waits for hours
            assert stub.CaptionImage(CAPTION, timeout=20).captions
            wait_until(lambda: admitted(server) == 0)
        metrics = server.metrics()
        for name in ("request_seconds", "queue_seconds", "stage_seconds"):
            sums = [value for key, value in metrics.items() if key.startswith(f"captioner_{name}_sum")]
            assert sums
            assert all(0 <= value < HOUR / 2 for value in sums)
        assert server.process.stop() == 0
        hours_seen = {line[11:13] for line in server.process.lines if "services.access" in line}
        assert len(hours_seen) >= 3  # it did jump
