"""From the first warm-up to the last answer: health, drain, reload, and the command with its signals."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.__main__ import main
from services.models import LoadError
from services.server import SERVICE
from tests.running_server import Held, failure, jpeg, reason, running, wait_until

ROOT = Path(__file__).resolve().parents[1]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


@pytest.fixture
def held(captioner: Captioner) -> Held:
    return Held(captioner)


def health(channel: grpc.Channel, service: str = SERVICE) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def stub_of(channel: grpc.Channel) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


CAPTION = pb.CaptionImageRequest(image=jpeg())


# Loading


def test_not_serving_before_the_warm_up(captioner: Captioner) -> None:
    with running(captioner, warm=False) as server, grpc.insecure_channel(server.target) as channel:
        assert health(channel) == health(channel, "") == NOT_SERVING
        stub = stub_of(channel)
        for call in (
            lambda: stub.CaptionImage(CAPTION, timeout=10),
            lambda: stub.GetModel(pb.GetModelRequest(), timeout=10),
            lambda: stub.ListModels(pb.ListModelsRequest(), timeout=10),
        ):
            code, details = failure(call)
            assert (code, reason(details)) == (UNAVAILABLE, "LOADING")
            assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        server.run(server.server.warm_up())
        assert health(channel) == health(channel, "") == SERVING
        assert stub.CaptionImage(CAPTION, timeout=10).captions


def test_warm_up_that_fails_never_serves(held: Held) -> None:
    held.search = lambda grid_BPC, options, stop=None: [[]] * len(grid_BPC)  # type: ignore[method-assign]
    with running(held, warm=False) as server, grpc.insecure_channel(server.target) as channel:
        with pytest.raises(LoadError, match="warm-up"):
            server.run(server.server.warm_up())
        assert health(channel) == NOT_SERVING


# Draining


@pytest.mark.parametrize("method", ["CaptionImage", "GetModel"])
def test_drain_finishes_calls_and_refuses_new_ones(held: Held, method: str) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = stub_of(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))  # type: ignore[no-untyped-call]
        assert next(watch).status == SERVING
        held.hold()
        call = stub.CaptionImage.future(CAPTION, timeout=10)
        assert held.entered.wait(10)
        server.begin(server.server.drain())
        assert next(watch).status == NOT_SERVING
        wait_until(lambda: server.server.admission.state.name == "DRAINING")
        request = CAPTION if method == "CaptionImage" else pb.GetModelRequest()
        code, details = failure(lambda: getattr(stub, method)(request, timeout=10))
        assert (code, reason(details)) == (UNAVAILABLE, "DRAINING")
        held.let_go()
        assert call.result().captions


def test_calls_are_answered_during_the_notice(held: Held) -> None:
    with running(held, notice_seconds=0.5) as server, grpc.insecure_channel(server.target) as channel:
        server.begin(server.server.drain())
        wait_until(lambda: health(channel) == NOT_SERVING)
        assert stub_of(channel).CaptionImage(CAPTION, timeout=10).captions


def test_a_drain_does_not_wait_for_ever(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    with running(held, grace_seconds=0.2) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        call = stub_of(channel).CaptionImage.future(CAPTION, timeout=20)
        assert held.entered.wait(10)
        threading.Timer(2.5, held.let_go).start()
        server.run(server.server.drain())
        assert call.exception() is not None
        assert "cut off after 0.2 s" in caplog.text


# Reloading


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "model"))


def replaced(folder: Path, bundle: Path) -> None:
    """Another bundle in the folder."""
    shutil.rmtree(folder)
    shutil.copytree(bundle, folder)


def version(channel: grpc.Channel) -> str:
    return str(stub_of(channel).GetModel(pb.GetModelRequest(), timeout=10).model.version)


def test_reload_under_load_loses_no_call(folder: Path, tiny_bundle: Path, tiny_bundle_inject: Path) -> None:
    versions: set[str] = set()
    failures: list[BaseException] = []
    done = threading.Event()

    def call(target: str, n: int) -> None:
        request = pb.CaptionImageRequest(image=jpeg(shade=n))
        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while not done.is_set():
                try:
                    versions.add(stub_of(channel).CaptionImage(request, timeout=20).model_version)
                except grpc.RpcError as error:
                    failures.append(error)

    with running(folder) as server, grpc.insecure_channel(server.target) as channel:
        callers = [threading.Thread(target=call, args=(server.target, n)) for n in range(3)]
        for caller in callers:
            caller.start()
        first = version(channel)
        for bundle in (tiny_bundle_inject, tiny_bundle, tiny_bundle_inject):
            replaced(folder, bundle)
            assert server.run(server.server.reload())
            time.sleep(0.2)
        last = version(channel)
        done.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert first != last
    assert versions == {first, last}


@pytest.mark.parametrize("harm", ["byte", "missing", "gone"])
def test_a_bundle_that_cannot_be_used_leaves_the_old_one(
    folder: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(folder) as server, grpc.insecure_channel(server.target) as channel:
        before = version(channel)
        graph = folder / "encoder.onnx"
        if harm == "byte":
            graph.write_bytes(graph.read_bytes()[:-1] + b"?")
        elif harm == "missing":
            graph.unlink()
        else:
            shutil.rmtree(folder)
        assert not server.run(server.server.reload())
        assert version(channel) == before
        assert health(channel) == SERVING
        assert stub_of(channel).CaptionImage(CAPTION, timeout=10).captions
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert str(folder) in record.getMessage()


# The command


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "services", "--port", "0", "--threads", "1", *map(str, arguments)]


class Process:
    """A server in a process of its own."""

    def __init__(self, *arguments: str | Path):
        self.process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def said(self, pattern: str) -> str:
        """Wait for a line, return what the pattern's group matches."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [match[1] for line in list(self.lines) if (match := re.search(pattern, line))]
            return bool(found) or self.process.poll() is not None

        wait_until(look, 60)
        assert found, "".join(self.lines)
        return found[0]


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[Process, str]]:
    """The process once it serves, and its address."""
    server = Process(*arguments)
    try:
        target = server.said(r"listening on ([\d.:]+)")
        server.said(r"(serving tiny)")
        yield server, target
    finally:
        server.process.kill()
        server.process.wait()


def large(n: int) -> bytes:
    """A picture that takes a while to read; each n another file."""
    return LARGE[:2] + b"\xff\xfe\x00\x04" + n.to_bytes(2, "big") + LARGE[2:]


LARGE = jpeg(4000, 6000, 50)


def test_sigterm_with_32_in_flight(tiny_bundle: Path) -> None:
    with started("--bundle", tiny_bundle) as (server, target), grpc.insecure_channel(target) as channel:
        stub = stub_of(channel)
        calls = [stub.CaptionImage.future(pb.CaptionImageRequest(image=large(n)), timeout=60) for n in range(32)]
        time.sleep(0.2)  # they are on their way
        wait_until(lambda: any(call.done() for call in calls), 30)
        in_flight = sum(not call.done() for call in calls)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: health(channel) == NOT_SERVING)
        assert all(call.result().captions for call in calls)
        assert in_flight > 0
        assert server.process.wait(20) == 0
        assert failure(lambda: stub.GetModel(pb.GetModelRequest(), timeout=5))[0] is UNAVAILABLE


def test_sighup_reloads_and_keeps_what_it_has_if_it_cannot(folder: Path, tiny_bundle_inject: Path) -> None:
    with started("--bundle", folder, "--log", "text") as (server, target), grpc.insecure_channel(target) as channel:
        first = version(channel)
        replaced(folder, tiny_bundle_inject)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: version(channel) != first, 30)
        second = version(channel)
        (folder / "encoder.onnx").write_bytes(b"?")
        server.process.send_signal(signal.SIGHUP)
        assert str(folder) in server.said("not reloaded: (.*)")
        assert version(channel) == second
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0


def test_a_log_on_a_full_disk_hurts_no_call(tiny_bundle: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command("--bundle", tiny_bundle, "--port", str(port)), cwd=ROOT, stderr=full)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_until(lambda: serves(channel), 60)
            for _ in range(5):
                assert stub_of(channel).CaptionImage(CAPTION, timeout=10).captions
            failure(lambda: stub_of(channel).CaptionImage(pb.CaptionImageRequest(), timeout=10))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def serves(channel: grpc.Channel) -> bool:
    try:
        return health(channel) == SERVING
    except grpc.RpcError:
        return False


def test_sigterm_while_it_loads(tiny_bundle: Path) -> None:
    server = Process("--bundle", tiny_bundle, "--max-batch", "64")
    try:
        server.said(r"listening on ([\d.:]+)")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_a_start_that_fails_is_one_sentence() -> None:
    ran = subprocess.run(command("--bundle", "nowhere"), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("error: no bundle at nowhere")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "TAKEN"], "cannot listen on 127.0.0.1:"),
        (["--tokens", "nowhere"], "tokens nowhere: cannot be read"),
        (["--tls-certificate", "a.pem", "--tls-key", "a.key"], "TLS: a.pem, a.key cannot be used"),
        (["--tls-key", "a.key"], "tls_certificate and tls_key go together"),
        (["--require-gpu"], "require_gpu needs the provider cuda"),
        (["--require-gpu", "--provider", "cuda"], "a GPU is required"),
        (["--max-queue", "0"], "max_queue must be at least 1, got 0"),
        (["--port", "70000"], "port must be in"),
        (["--bundle", "BUNDLE"], "is given twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_served(tiny_bundle: Path, captioner: Captioner, arguments: list[str], message: str) -> None:
    if "cuda" in arguments and gpu():
        pytest.skip("there is a GPU")
    with running(captioner, warm=False) as taken:
        given = {"BUNDLE": str(tiny_bundle), "TAKEN": taken.target.rsplit(":", 1)[1]}
        words = ["--port", "0", "--bundle", "BUNDLE", *arguments]
        with pytest.raises(SystemExit, match=re.escape(message)) as caught, _signals_kept():
            main([given.get(word, word) for word in words])
    assert str(caught.value.code).startswith("error: ")


def gpu() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The handlers of this process as they were."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
