"""What an operator decides; a bad value fails before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captioner.bundle import Precision
from captioner.config import at_least, between, one_of
from captioner.engine import PROVIDERS, Provider
from captioner.memory import DEFAULT_BYTES


@dataclass(frozen=True)
class EngineSettings:
    """How models run."""

    max_queue: int = 64
    """Images let in at a time, waiting or worked on, over all models and methods; one more is refused."""
    max_batch: int = 8
    """Images in one run of a graph."""
    wait_ms: float = 0.0
    """How long an image may wait, in milliseconds, for others to share its run while the model is idle."""
    readers: int = 2
    """Images decoded at a time, for each model; a large one takes a few hundred MB while it is decoded."""
    memory_bytes: int = DEFAULT_BYTES
    """For what the encoder saw in the last images, for each model; 0 remembers nothing."""
    threads: int | None = None
    """Of one run of a graph; None for one per usable core."""
    precision: Precision | None = None
    """Of the graphs; None for int8 where the bundle has it."""
    provider: Provider = "cpu"
    """What the graphs should run on; without require_gpu they fall back to the CPU."""
    require_gpu: bool = False
    """Fail rather than fall back to the CPU."""

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_batch", "readers"):
            at_least(name, getattr(self, name), 1)
        between("wait_ms", self.wait_ms, 0.0, 1000.0)
        at_least("memory_bytes", self.memory_bytes, 0)
        if self.threads is not None:
            at_least("threads", self.threads, 1)
        if self.precision is not None:
            one_of("precision", self.precision, ("fp32", "int8"))
        one_of("provider", self.provider, tuple(PROVIDERS))
        if self.require_gpu and self.provider == "cpu":
            raise ValueError("require_gpu needs the provider cuda, got cpu")


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen, whom to let in, and how to stop."""

    host: str = "127.0.0.1"
    port: int = 50051
    """Of gRPC; 0 takes a free one."""
    metrics_port: int | None = None
    """Of Prometheus's page; 0 takes a free one, None has none."""
    web_port: int | None = None
    """Of the web page; 0 takes a free one, None has none."""
    notice_seconds: float = 1.0
    """How long calls are still answered after health turned NOT_SERVING, for balancers to look elsewhere."""
    grace_seconds: float = 30.0
    """How long a drain waits for the calls in flight before it cuts them off."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate chain; None listens without TLS."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    client_ca: Path | None = None
    """PEM file of the authorities whose clients are let in (mutual TLS); None asks for no client certificate."""
    tokens_file: Path | None = None
    """File of bearer tokens, one a line; None asks for none."""
    log_json: bool = True
    """Whether the log is one JSON object a line, or text for people."""

    def __post_init__(self) -> None:
        for name in ("port", "metrics_port", "web_port"):
            if (port := getattr(self, name)) is not None:
                between(name, port, 0, 65535)
        for name in ("notice_seconds", "grace_seconds"):
            between(name, getattr(self, name), 0.0, 3600.0)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together, only one of them is given")
        if self.client_ca is not None and self.tls_certificate is None:
            raise ValueError("client_ca needs a tls_certificate, none is given")
