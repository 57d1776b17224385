"""python -m services [--bundle DIR]: serve bundles over gRPC until SIGTERM. SIGHUP reloads them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from captioner.bundle import default_bundle
from captioner.engine import EngineError
from services import json_log, tracing
from services.flags import add_engine_flags, engine_settings
from services.metrics import Metrics
from services.models import LoadError, Models
from services.server import ListenError, Server, serve
from services.settings import EngineSettings, ServerSettings


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, load the bundles, serve until SIGTERM or SIGINT."""
    given = _parser().parse_args(arguments)
    handler = None
    try:
        engine = engine_settings(given)
        settings = ServerSettings(
            host=given.host,
            port=given.port,
            metrics_port=given.metrics_port,
            web_port=given.web_port,
            tls_certificate=given.tls_certificate,
            tls_key=given.tls_key,
            client_ca=given.client_ca,
            tokens_file=given.tokens,
            log_json=given.log == "json",
        )
        handler = json_log.set_up(settings.log_json)
        asyncio.run(_serve(given.bundle or [default_bundle()], engine, settings, handler))
    except (ValueError, EngineError, LoadError, ListenError, ImportError) as error:
        if handler is not None:
            handler.close()
        sys.exit(f"error: {error}")
    handler.close()


async def _serve(
    bundles: list[Path], engine: EngineSettings, settings: ServerSettings, handler: json_log.LogHandler
) -> None:
    metrics = Metrics()
    metrics.log_lines_lost.set_function(lambda: handler.lost)
    trace = tracing.from_environment()
    models = Models(bundles, engine, metrics)
    try:
        await serve(Server(models, settings, engine.max_queue, metrics, (trace,) if trace else ()))
    finally:
        if trace is not None:
            await asyncio.to_thread(trace.close)


def _parser() -> argparse.ArgumentParser:
    server = ServerSettings()
    parser = argparse.ArgumentParser(prog="python -m services", description="Serve bundles over gRPC.")
    add = parser.add_argument
    add("--bundle", type=Path, action="append", metavar="DIR",
        help="folder of a model (the box); more than one may be given, the first is the default")  # fmt: skip
    add("--host", default=server.host, help="address to listen on (%(default)s)")
    add("--port", type=int, default=server.port, help="of gRPC; 0 takes a free one (%(default)s)")
    add("--metrics-port", type=int, metavar="PORT", help="of Prometheus's page (none)")
    add("--web-port", type=int, metavar="PORT", help="of the web page (none)")
    add("--tls-certificate", type=Path, metavar="PEM", help="the server's certificate chain (no TLS)")
    add("--tls-key", type=Path, metavar="PEM", help="its private key")
    add("--client-ca", type=Path, metavar="PEM", help="authorities whose clients are let in (all are)")
    add("--tokens", type=Path, metavar="FILE", help="bearer tokens, one a line, a name before it if it has one (none)")
    queue_help = "pictures waiting or worked on; one more is refused"
    add_engine_flags(parser, None, "of one run of a model (one per core)", queue_help)
    return parser


if __name__ == "__main__":
    main()
