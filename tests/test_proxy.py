"""Two real servers behind HAProxy with docker-compose.yml's configuration, on loopback: whatever happens to one of them
fails no call."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from PIL import Image

from captioner.client import Client, ClientError, Tls
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.load.own_server import free_ports
from tests.running_server import failure, jpeg, reason, wait_until

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION, CLOSED = ROOT / "services/deploy/haproxy.cfg", ROOT / "services/deploy/closed.yml"
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
if HAPROXY is None:
    pytest.skip("haproxy is not installed (Debian: apt-get install haproxy)", allow_module_level=True)
QUIET: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Replica:
    """A server process that may be stopped and started again."""

    def __init__(self, bundle: Path):
        self.port, self.metrics_port, self.web_port = free_ports(3)
        self._bundle = bundle
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; it serves a second or two later."""
        ports = ("--port", self.port, "--metrics-port", self.metrics_port, "--web-port", self.web_port)
        command = [sys.executable, "-m", "services", "--bundle", self._bundle, "--threads", 1, *ports]
        self.process = subprocess.Popen([str(word) for word in command], cwd=ROOT, **QUIET)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal, return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def metric(self, line: str) -> float:
        """The value of a line of its metrics' page, 0 without one."""
        page = get(f"http://127.0.0.1:{self.metrics_port}/metrics")
        return sum(float(text.rsplit(" ", 1)[1]) for text in page.splitlines() if text.startswith(line))

    def answered(self) -> float:
        """Captions."""
        return ended([self], "OK")


def ended(replicas: list[Replica], code: str) -> float:
    """Calls for captions that ended so, at both."""
    line = f'captioner_requests_total{{code="{code}",method="CaptionImage"}}'
    return sum(replica.metric(line) for replica in replicas)


def admitted(replicas: list[Replica]) -> float:
    """Pictures that are worked on, at both."""
    return sum(replica.metric("captioner_admitted_images") for replica in replicas)


def get(url: str) -> str:
    """A page."""
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


class Proxy:
    """HAProxy in front of replicas."""

    def __init__(self, replicas: list[Replica], **settings: str):
        """settings: of the environment, besides the addresses."""
        self.port, self.web_port, status = free_ports(3)
        self.target = f"127.0.0.1:{self.port}"
        self.status = f"http://127.0.0.1:{status}"
        first, second = replicas
        addresses = {
            "GRPC_ADDRESS": self.port, "WEB_ADDRESS": self.web_port, "STATUS_ADDRESS": status,
            "FIRST_REPLICA": first.port, "SECOND_REPLICA": second.port,
            "FIRST_WEB": first.web_port, "SECOND_WEB": second.web_port,
        }  # fmt: skip
        environment = {name: f"127.0.0.1:{port}" for name, port in addresses.items()} | {"GRPC_BIND": "proto h2"}
        self.process = subprocess.Popen(
            [str(HAPROXY), "-db", "-f", CONFIGURATION], env=os.environ | environment | settings, **QUIET
        )

    def close(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def serving(self) -> int:
        """How many replicas get calls."""
        with suppress(OSError):
            lines = get(f"{self.status}/metrics").splitlines()
            up = [line for line in lines if line.startswith('haproxy_server_status{proxy="replicas"')]
            return sum('state="UP"' in line and line.endswith(" 1") for line in up)
        return 0


@pytest.fixture(scope="module")
def replicas(tiny_bundle_answers: Path) -> Iterator[list[Replica]]:
    found = [Replica(tiny_bundle_answers), Replica(tiny_bundle_answers)]
    for replica in found:
        replica.start()
    yield found
    for replica in found:
        assert replica.process is not None
        replica.process.kill()
        replica.process.wait()


@pytest.fixture(scope="module")
def running_proxy(replicas: list[Replica]) -> Iterator[Proxy]:
    found = Proxy(replicas)
    yield found
    found.close()


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    """Both replicas get calls."""
    wait_until(lambda: running_proxy.serving() == 2, 30)
    return running_proxy


@contextmanager
def load(target: str, callers: int = 4) -> Iterator[Counter[str]]:
    """Calls one after the other from each caller, each caller with a connection of its own; outcomes by name."""
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def call(n: int) -> None:
        with Client(target, timeout=20) as client:
            while not done.is_set():
                try:
                    outcomes["ok" if client.caption(jpeg(shade=n)) else "empty"] += 1
                except ClientError as error:
                    outcomes[f"{error.code} {error.reason} {error}"] += 1

    threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_calls_are_spread_and_keep_what_they_carry(proxy: Proxy, replicas: list[Replica]) -> None:
    before = [replica.answered() for replica in replicas]
    with Client(proxy.target) as client:
        for n in range(10):
            reply = client.caption(jpeg(shade=n), request_id=f"number-{n}")
            assert reply.served.request_id == f"number-{n}"
    assert [replica.answered() - first for replica, first in zip(replicas, before, strict=True)] == [5, 5]


def test_errors_and_deadlines_pass_unchanged(proxy: Proxy) -> None:
    with grpc.insecure_channel(proxy.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
        request = pb.CaptionImageRequest(image=jpeg(), beam_size=99)
        code, details = failure(lambda: stub.CaptionImage(request, timeout=10, metadata=[("x-request-id", "mine")]))
        assert (code, reason(details)) == (grpc.StatusCode.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE")
        assert [violation.field for violation in details["BadRequest"].field_violations] == ["beam_size"]
        assert details["request_id"] == "mine"


def streams(replicas: list[Replica]) -> float:
    """That have ended, whatever the server made of it: its end of the requests and of the call come together."""
    return sum(r.metric('captioner_request_seconds_count{method="StreamCaptionImages"}') for r in replicas)


def test_the_replica_knows_the_deadline(proxy: Proxy, replicas: list[Replica]) -> None:
    before = streams(replicas)
    over = threading.Event()
    never = iter(over.wait, True)
    with grpc.insecure_channel(proxy.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
        # As metadata, so that it is not the client that gives up.
        call = stub.StreamCaptionImages(never, metadata=[("grpc-timeout", "500m")])
        code, _ = failure(lambda: next(call))
        wait_until(lambda: streams(replicas) == before + 1)
        over.set()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_replica_learns_that_a_caller_left(proxy: Proxy, replicas: list[Replica]) -> None:
    before = streams(replicas)
    over = threading.Event()

    def one_and_no_end() -> Iterator[pb.StreamCaptionImagesRequest]:
        yield pb.StreamCaptionImagesRequest(id="first", request=pb.CaptionImageRequest(image=jpeg()))
        over.wait()

    with grpc.insecure_channel(proxy.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.StreamCaptionImages(one_and_no_end(), timeout=30)
        assert next(call).id == "first"
        assert streams(replicas) == before
        call.cancel()
        wait_until(lambda: streams(replicas) == before + 1)
        over.set()


def test_a_stream_runs_both_ways_at_a_time(proxy: Proxy) -> None:
    photos = {name: jpeg(shade=n) for n, name in enumerate("abc")}
    with Client(proxy.target) as client:  # the second photo is sent once the first one's captions are there
        assert [key for key, captions in client.caption_stream(photos, concurrency=1) if captions] == ["a", "b", "c"]


def test_the_page_comes_from_a_replica(proxy: Proxy) -> None:
    assert "<title>" in get(f"http://127.0.0.1:{proxy.web_port}/")


def test_a_stopped_replica_fails_no_call_and_takes_calls_again(proxy: Proxy, replicas: list[Replica]) -> None:
    gone, other = replicas
    with load(proxy.target) as outcomes:
        time.sleep(0.3)
        assert gone.stop(signal.SIGTERM) == 0
        answered = other.answered()
        wait_until(lambda: other.answered() > answered + 10, 30)
        gone.start()
        wait_until(lambda: proxy.serving() == 2, 30)
        wait_until(lambda: gone.answered() > 10, 30)
    assert set(outcomes) == {"ok"}


def test_a_killed_replica_fails_no_call(proxy: Proxy, replicas: list[Replica]) -> None:
    other, gone = replicas
    with load(proxy.target) as outcomes:
        time.sleep(0.3)
        gone.stop(signal.SIGKILL)
        wait_until(lambda: proxy.serving() == 1)
        answered = other.answered()
        wait_until(lambda: other.answered() > answered + 10, 30)
    gone.start()
    assert set(outcomes) == {"ok"}


def test_a_stopped_proxy_finishes_what_it_has(proxy: Proxy, replicas: list[Replica]) -> None:
    slow = BytesIO()
    Image.new("RGB", (5000, 6000)).save(slow, "PNG", compress_level=1)  # read whole, unlike a JPEG
    another = Proxy(replicas)
    try:
        wait_until(lambda: another.serving() == 2, 30)
        with Client(another.target, timeout=30) as client, ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.caption, slow.getvalue())
            wait_until(lambda: admitted(replicas) == 1)
            another.process.send_signal(signal.SIGUSR1)
            assert call.result()
        assert another.process.wait(20) == 0
    finally:
        another.close()


def test_tls_ends_at_the_proxy(proxy: Proxy, replicas: list[Replica], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from tests.test_security import Authority

    authority = Authority(tmp_path, "authority")
    chain = tmp_path / "proxy.pem"
    chain.write_bytes(b"".join(path.read_bytes() for path in authority.issue("proxy")))
    settings = yaml.safe_load(CLOSED.read_text())["services"]["proxy"]["environment"]
    closed = Proxy(replicas, **{name: text.replace("/run/secrets", str(tmp_path)) for name, text in settings.items()})
    try:
        wait_until(lambda: closed.serving() == 2, 30)
        with Client(closed.target, tls=Tls(authority.path)) as client:
            assert client.caption(jpeg())
        with Client(closed.target, timeout=2) as client, pytest.raises(ClientError):
            client.caption(jpeg())
        trusted = ssl.create_default_context(cafile=str(authority.path))
        with urllib.request.urlopen(f"https://127.0.0.1:{closed.web_port}/", timeout=5, context=trusted) as page:
            assert page.status == 200
    finally:
        closed.close()


def test_without_replicas_the_proxy_says_so(running_proxy: Proxy) -> None:
    nowhere = [Replica(Path("none")), Replica(Path("none"))]
    alone = Proxy(nowhere)
    try:
        wait_until(lambda: health(alone) == 503)
        with Client(alone.target, timeout=5) as client, pytest.raises(ClientError, match="no replica is serving") as e:
            client.caption(jpeg())
        assert e.value.code is grpc.StatusCode.UNAVAILABLE
        assert health(running_proxy) == 200
    finally:
        alone.close()


def health(proxy: Proxy) -> int:
    """The status that the container's health check gets; 0 for none."""
    try:
        get(f"{proxy.status}/healthz")
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200
