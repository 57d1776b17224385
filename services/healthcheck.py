"""python -m services.healthcheck: whether the server on this machine answers SERVING, as a container's engine asks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: list[str] | None = None) -> None:
    """Ask grpc.health.v1 once; exit with a sentence if the answer is another, or none."""
    parser = argparse.ArgumentParser(
        prog="python -m services.healthcheck", description="Exit with 0 if the server on this machine answers SERVING."
    )
    add = parser.add_argument
    add("--port", type=int, default=50051, help="of gRPC (%(default)s)")
    add("--timeout", type=float, default=4.0, metavar="SECONDS", help="(%(default)s)")
    add("--ca", type=Path, metavar="PEM", help="the authority of the server's certificate, or that itself (no TLS)")
    add("--name", default="localhost", help="that the certificate is made out to (%(default)s)")
    add("--certificate", type=Path, metavar="PEM", help="for a server that asks for a client's")
    add("--key", type=Path, metavar="PEM", help="its private key")
    given = parser.parse_args(arguments)
    try:
        with _channel(given) as channel:
            stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=given.timeout).status
    except (OSError, grpc.RpcError) as error:
        sys.exit(f"no answer: {error.details() if isinstance(error, grpc.RpcError) else error}")
    if status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def _channel(given: argparse.Namespace) -> grpc.Channel:
    target = f"127.0.0.1:{given.port}"
    options = [("grpc.enable_http_proxy", 0)]
    if given.ca is None:
        return grpc.insecure_channel(target, options)
    ca, key, certificate = (path and path.read_bytes() for path in (given.ca, given.key, given.certificate))
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(target, credentials, [*options, ("grpc.ssl_target_name_override", given.name)])


if __name__ == "__main__":
    main()
