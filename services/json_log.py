"""The log: one line of JSON for each call and each event, written so that no state of the disk or pipe can hurt a call.

A line of a call has time, level, logger, message, method, code, reason, ms, model, pictures, bytes, request_id, peer
and caller: never a picture, a question or a token. Lines wait for a thread of their own; what cannot be written, or
does not fit into the queue, is counted and lost.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import grpc

from services.errors import Failure
from services.interceptors import Call, current

CAPACITY = 10_000
"""Lines that wait."""
CLOSE_SECONDS = 2.0
PAUSE_SECONDS = 0.05
"""Lines are written together: waking the thread for each one would take the interpreter from the calls each time."""

access_log = logging.getLogger("services.access")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "call", {}),
        }
        call = current.get(None)
        if call is not None:
            line.setdefault("request_id", call.request_id)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A record as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")


class LogHandler(logging.Handler):
    """Writes to a file descriptor, from a thread, without ever raising or waiting."""

    def __init__(self, formatter: logging.Formatter, descriptor: int = 2, capacity: int = CAPACITY):
        super().__init__()
        self.setFormatter(formatter)
        self.lost = 0
        """Lines that could not be written."""
        self._descriptor = descriptor
        self._cut = b""
        """What ends a line of which a part was written."""
        self._lines: queue.Queue[bytes | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
            self._lines.put_nowait(line)
        except Exception:  # a full queue, or a record that cannot be formatted
            self.lost += 1

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        try:
            self._lines.put_nowait(None)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass
        super().close()

    def _write_all(self) -> None:
        more = True
        while more:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(PAUSE_SECONDS)
            with suppress(queue.Empty):
                while lines[-1] is not None:
                    lines.append(self._lines.get_nowait())
            more = lines[-1] is not None
            self._write(b"".join(line for line in lines if line is not None))

    def _write(self, text: bytes) -> None:
        left = self._cut + text
        try:
            # Not through a Python file: after a failure it would keep the text and fail again at exit.
            while left:
                written = os.write(self._descriptor, left)
                self._cut = b"" if left[:written].endswith(b"\n") else b"\n"
                left = left[written:]
        except OSError:
            self.lost += min(left.count(b"\n"), text.count(b"\n"))


def set_up(as_json: bool) -> LogHandler:
    """Let everything be logged to the standard error output."""
    handler = LogHandler(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler


class AccessLog:
    """Writes the line of each call."""

    def finished(self, call: Call) -> None:
        """See Watcher."""
        level = logging.ERROR if call.code is grpc.StatusCode.INTERNAL else logging.INFO
        fields = {
            "method": call.method,
            "code": call.code.name,
            "reason": call.reason,
            "ms": round(1000 * call.seconds, 1),
            "model": call.model,
            "pictures": call.pictures,
            "bytes": call.picture_bytes,
            "request_id": call.request_id,
            "peer": call.peer,
            "caller": call.caller,
        }
        outcome = f"{call.code.name} {call.reason}".strip()
        access_log.log(level, "%s %s %.1f ms", call.method, outcome, 1000 * call.seconds, extra={"call": fields})

    def failed(self, failure: Failure) -> None:
        """Nothing: the line of the call says it."""
