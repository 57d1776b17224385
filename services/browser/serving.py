"""A plain file server for the site, on this machine only.

Any static host will do. This one also isolates the page from other origins, which lets the model use threads, and sends
the page's policy as a header, which its worker keeps too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from services.browser.site import POLICY

ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Handler(SimpleHTTPRequestHandler):
    """Files with their types and the headers above."""

    protocol_version = "HTTP/1.1"
    extensions_map = {  # noqa: RUF012 - the base class has it so
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
        "": "application/octet-stream",
    }

    def __init__(self, *arguments: Any, headers: dict[str, str], **named: Any):
        self._more = headers
        super().__init__(*arguments, **named)

    def end_headers(self) -> None:
        """Add ours to what every response has."""
        for name, value in self._more.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep no log."""


class _Server(ThreadingHTTPServer):
    """A page that is closed while it loads is no fault."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report all but lost connections."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(folder: Path, port: int, isolated: bool = True) -> Iterator[tuple[str, Thread]]:
    """The site's address and the thread that serves it, until the end of the block; port 0 is any that is free."""
    headers = {**HEADERS, **(ISOLATED if isolated else {})}
    handler = partial(_Handler, directory=str(folder), headers=headers)
    with _Server(("127.0.0.1", port), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", thread
        finally:
            server.shutdown()
