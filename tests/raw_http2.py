"""HTTP/2 by hand, for requests that no gRPC library would send (RFC 9113; headers as literals of RFC 7541)."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literals(headers: Mapping[str, str | bytes]) -> bytes:
    """A block of headers."""
    parts = []
    for name, value in headers.items():
        content = value if isinstance(value, bytes) else value.encode("latin-1")
        parts += [b"\x10", _length(len(name)), name.encode(), _length(len(content)), content]
    return b"".join(parts)


def _length(n: int) -> bytes:
    """An integer with a prefix of 7 bits."""
    if n < 127:
        return bytes([n])
    rest, coded = n - 127, b"\x7f"
    while rest >= 128:
        coded, rest = coded + bytes([rest % 128 | 128]), rest // 128
    return coded + bytes([rest])


def message(data: bytes, packed: bool = False, length: int | None = None) -> bytes:
    """A message of gRPC: a flag, a length (its own, or one that lies) and its bytes."""
    return struct.pack(">BI", packed, len(data) if length is None else length) + data


def grpc_status(headers: bytes) -> int | None:
    """The code in the header blocks of an answer, as gRPC's C core writes them; None if there is none."""
    found = re.search(rb"grpc-status.(\d+)", headers, re.DOTALL)
    return int(found[1]) if found else None


class Http2:
    """A connection. Settings are sent and acknowledged; the peer's windows are honoured, if it is given the time."""

    def __init__(self, target: str, seconds: float = 20.0):
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=seconds)
        self._end = time.monotonic() + seconds
        self._received = b""
        self._initial = 65535  # of the window of each stream
        self._opened: dict[int, int] = {0: 65535}  # by how much windows were opened beyond that, and used
        self._seen: list[tuple[int, int, int, bytes]] = []
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW, 0, 0, struct.pack(">I", 2**30)))

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Anything."""
        self._socket.sendall(data)

    def call(self, path: str, body: bytes, stream: int = 1, headers: Mapping[str, str | bytes] | None = None) -> None:
        """A request of gRPC; headers add to the usual ones or replace them, and b"" leaves one out."""
        usual: dict[str, str | bytes] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "server",
            "content-type": "application/grpc",
            "te": "trailers",
            **(headers or {}),
        }
        block = literals({name: value for name, value in usual.items() if value != b""})
        parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        for number, part in enumerate(parts):
            last = END_HEADERS if number == len(parts) - 1 else 0
            self.send(frame(CONTINUATION if number else HEADERS, last, stream, part))
        for begin in range(0, len(body), FRAME_BYTES):
            part = body[begin : begin + FRAME_BYTES]
            if not self._window_opens(stream, len(part)):
                return
            self.send(frame(DATA, 0, stream, part))
        self.send(frame(DATA, END_STREAM, stream))

    def _window_opens(self, stream: int, size: int) -> bool:
        """Wait until so many bytes may be sent; False if the peer ends the stream instead."""
        frames = self._read()
        while min(self._opened[0], self._initial + self._opened.get(stream, 0)) < size:
            got = next(frames, None)
            if got is None:
                return False
            self._seen.append(got)
            if got[0] in (RESET, GOAWAY) or (got[0] == HEADERS and got[1] & END_STREAM):
                return False
        for own in (0, stream):
            self._opened[own] = self._opened.get(own, 0) - size
        return True

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of each frame until the peer closes."""
        while self._seen:
            yield self._seen.pop(0)
        yield from self._read()

    def _read(self) -> Iterator[tuple[int, int, int, bytes]]:
        while True:
            while len(self._received) < 9 or len(self._received) < 9 + int.from_bytes(self._received[:3], "big"):
                self._socket.settimeout(max(0.01, self._end - time.monotonic()))
                try:
                    more = self._socket.recv(65536)
                except ConnectionError:
                    return
                if not more:
                    return
                self._received += more
            size = int.from_bytes(self._received[:3], "big")
            kind, flags, stream = self._received[3], self._received[4], int.from_bytes(self._received[5:9], "big")
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            if kind == SETTINGS and not flags & ACK:
                for at in range(0, size, 6):
                    if payload[at : at + 2] == b"\0\4":
                        self._initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                self.send(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            elif kind == WINDOW:
                self._opened[stream] = self._opened.get(stream, 0) + int.from_bytes(payload, "big")
            yield kind, flags, stream, payload

    def headers_until_end(self, stream: int = 1) -> bytes:
        """The header blocks of an answer, or b"" where the connection or the stream was ended instead."""
        blocks = b""
        for kind, flags, own, payload in self.frames():
            if own == stream and kind == HEADERS:
                blocks += payload
            if (own == stream and (kind == RESET or (kind in (HEADERS, DATA) and flags & END_STREAM))) or (
                kind == GOAWAY and not blocks
            ):
                break
        return blocks
