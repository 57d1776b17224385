"""How a client reaches its servers: addresses, retries, TLS, tokens and request ids, the same for sync and async."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import uniform
from typing import Any

import grpc

from captioner.client_calls import MESSAGE_BYTES, check_timeout
from captioner.client_messages import ClientError, client_error
from captioner.throttle import THROTTLED, Throttle

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "captioner.v1.CaptionService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}
LONGEST_BACKOFF_MS = 5000
"""After so long a lost server is looked for again; gRPC's own two minutes keep a restarted one idle."""
HELD_BACK_SECONDS = 1.0
"""After which a call that was not sent may be tried again."""
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Tls:
    """Encrypts the connection. Each file is PEM, as bytes or as a path."""

    root_certificates: bytes | str | Path | None = None
    """Who may vouch for the server; None for the authorities that gRPC brings along."""
    certificate: bytes | str | Path | None = field(default=None, repr=False)
    """The client's own, for servers that ask for one."""
    key: bytes | str | Path | None = field(default=None, repr=False)
    """Its private key."""
    server_name: str | None = None
    """The name in the server's certificate; None for the host that is connected to, the first of several."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together, only one of them is given")

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC; raises OSError for a file that cannot be read."""
        files = (self.root_certificates, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(Path(f).read_bytes() if isinstance(f, str | Path) else f for f in files))


@dataclass(frozen=True)
class Connection:
    """Where the servers are and how they are called; raises ValueError for what cannot be meant."""

    target: str
    """HOST:PORT; several, split by commas, take turns; or any name that gRPC resolves, as dns:///captioner:50051.

    Of several, names are looked up once, as IPv4; of one, again whenever a connection is lost.
    """
    timeout: float = 10.0
    """Seconds that a call may take, all attempts together."""
    retry_when_full: bool = False
    """Whether a call that a full server refuses waits as long as the server says, and tries again."""
    throttle: float | None = None
    """How many calls are sent for each that the servers take, at least 1, once they refuse many for want of room; the
    others fail here at once, as THROTTLED (captioner.throttle). None sends all; try 1.5.
    """
    tls: Tls | None = None
    """None connects in the clear."""
    token: str | None = field(default=None, repr=False)
    """Sent with every call. Without TLS, whoever listens reads it."""
    _throttle: Throttle = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("the target is empty, it must be HOST:PORT")
        check_timeout(self.timeout)
        object.__setattr__(self, "_throttle", Throttle(self.throttle))
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("the token must be printable ASCII without spaces")

    def open(self, kind: Any) -> Any:
        """A channel of grpc or of grpc.aio."""
        target, host = _resolved(self.target)
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            # A message that does not fit here is sent once and never again; the default of 256 KiB holds hardly any
            # photo.
            ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES),
            ("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_MS),
        ]
        if host is not None:
            options.append(("grpc.default_authority", host))
        if self.tls is None:
            return kind.insecure_channel(target, options)
        if name := self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", name))
        return kind.secure_channel(target, self.tls.credentials(), options)

    def metadata(self, request_id: str) -> Sequence[tuple[str, str]]:
        """What goes with a call."""
        token = () if self.token is None else (("authorization", f"Bearer {self.token}"),)
        return (("x-request-id", request_id), *token)

    @contextmanager
    def attempt(self, request_id: str) -> Iterator[None]:
        """Around one attempt of a call: ClientError where it is held back, or for what gRPC raises."""
        if self._throttle.refuses():
            message = "not sent: the server has refused too many calls of late"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise ClientError(code, THROTTLED, message, retry_after=HELD_BACK_SECONDS, request_id=request_id)
        try:
            yield
        except grpc.RpcError as e:
            error = client_error(e, request_id)
            self._throttle.ended(error.reason)
            raise error from e
        self._throttle.ended("")

    def wait_before_retry(self, error: ClientError, left: float) -> float | None:
        """Seconds to wait before the call is tried again, or None to give up; left: until its deadline."""
        if not self.retry_when_full or error.code != grpc.StatusCode.RESOURCE_EXHAUSTED or error.retry_after is None:
            return None
        wait = error.retry_after * uniform(1.0, 1.5)  # so that those who were refused together come back one by one
        return wait if wait < left else None


def _resolved(target: str) -> tuple[str, str | None]:
    """A target that gRPC understands, and of a list of addresses the first host: gRPC takes no list of names."""
    if "," not in target or target.partition(":")[0] in ("ipv4", "ipv6", "dns", "unix"):
        return target, None
    found: list[str] = []
    for address in target.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise ValueError(f"each of several targets must be HOST:PORT, got {address!r}")
        try:
            hosts = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
        except OSError as e:
            raise ValueError(f"no address is known for {host}: {e}") from e
        found += [f"{ip}:{port}" for *_, (ip, *_) in hosts]
    return f"ipv4:{','.join(dict.fromkeys(found))}", target.partition(":")[0].strip()
