"""python -m services.cluster [--bundle DIR]: the same service on a Ray cluster, until SIGTERM or SIGINT.

Every machine needs captioner[cluster], the cpu or gpu extra, and the bundles and tokens at the same paths; a bundle
must not change while it is served, as replicas that start later read it again. On each machine with a replica Ray's
proxy takes gRPC calls (--port) and passes each to the less busy of two replicas (services.replica), drawn by chance.
A cluster's own token is given to Ray in RAY_AUTH_TOKEN. SIGTERM is for this process alone: a local Ray that gets it too
(systemd without KillMode=mixed) drops the calls in flight.

- Batches are made by services.engine inside a replica, of all methods and callers. serve.batch is not used: it knows
  one method, and neither deadlines nor cancelled calls. Ray lets twice max_queue calls in, so that the replica's own
  rule refuses first, with RetryInfo; the calls of a proxy that find no replica at all wait, --max-waiting at most.
- Between --min-replicas and --max-replicas Ray aims at --max-batch calls in each: full runs, and none that only wait.
  It counts them over 30 s, and needs to see more for --upscale-delay, fewer for --downscale-delay.
- Deadlines, cancelled calls, retries and errors are those of the plain server (services.proxy). A lost replica's calls
  fail with UNAVAILABLE, which captioner.client tries again; Ray replaces it.
- grpc.health.v1 Check answers SERVING if the proxy reaches a replica; a replica whose models do not answer is replaced.

What Ray's proxy lacks, and what to put in front of it:

- TLS. It listens in the clear on all interfaces, and so do ports of Ray's own that run any code they are sent: only the
  balancer may reach the cluster's network. The haproxy or envoy there ends TLS, and checks client certificates.
- A token is asked for, but only after a call's message has been read and passed on, and not for the names of the
  applications (ListApplications). Reflection is off where tokens are asked for.
- Messages up to 2 GiB, unless RAY_SERVE_GRPC_MAX_MESSAGE_SIZE says less where Ray is started; here it is 20 MiB.
- Watch of grpc.health.v1. http://HOST:8000/-/healthz says only whether the proxy lives, also where no replica does.
- Bytes that are no message are UNKNOWN, not MALFORMED_REQUEST; what ends a whole stream has a code and no details.
- Reload on SIGHUP, the web page, and our metrics: Ray has its own. The log of a replica, our JSON lines, is its
  worker-*.err in Ray's folder of logs.
- Draining ends streams only with the last of their pictures, or after 30 s.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner import BundleError, sharing
from captioner.bundle import default_bundle
from captioner.config import at_least, between
from services import json_log
from services.flags import add_engine_flags, engine_settings
from services.replica import Replica
from services.security import SecurityError, Tokens
from services.server import MESSAGE_BYTES
from services.settings import EngineSettings, ServerSettings

log = logging.getLogger(__name__)

APPLICATION = "captioner"
CONNECT_SECONDS = 10
STOP_SECONDS = ServerSettings.grace_seconds + 20


@dataclass(frozen=True)
class ClusterSettings:
    """Where the cluster is, and how many replicas it has."""

    address: str = "local"
    """HOST:PORT of a Ray cluster; "local" for one on this machine, made for this."""
    num_cpus: int | None = None
    """That a local cluster says it has; None for as many as there are."""
    port: int = 9000
    """Of gRPC, on every machine with a proxy."""
    health_port: int = 8000
    """Of /-/healthz, over HTTP."""
    min_replicas: int = 1
    max_replicas: int = 1
    upscale_delay_seconds: float = 30.0
    """That the replicas must have too many calls before there are more of them."""
    downscale_delay_seconds: float = 600.0
    """That they must have too few calls before there are fewer."""
    max_waiting: int = 64
    """Calls that wait in a proxy for a replica; one more is refused."""
    tokens_file: Path | None = None
    """File of bearer tokens; None asks for none."""

    def __post_init__(self) -> None:
        for name in ("port", "health_port"):
            between(name, getattr(self, name), 1, 65535)
        for name in ("min_replicas", "max_waiting"):
            at_least(name, getattr(self, name), 1)
        at_least("max_replicas", self.max_replicas, self.min_replicas)
        for name in ("upscale_delay_seconds", "downscale_delay_seconds"):
            at_least(name, getattr(self, name), 0)
        if self.num_cpus is not None:
            at_least("num_cpus", self.num_cpus, 1)


def application(bundles: Sequence[Path], engine: EngineSettings, settings: ClusterSettings) -> Any:
    """The Ray Serve application of replicas that serve those bundles."""
    from ray import serve

    deployment: Any = serve.deployment(
        Replica,
        name=APPLICATION,
        ray_actor_options={"num_cpus": engine.threads or 1, "num_gpus": int(engine.provider != "cpu")},
        max_ongoing_requests=2 * engine.max_queue,
        max_queued_requests=settings.max_waiting,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": engine.max_batch,
            "upscale_delay_s": settings.upscale_delay_seconds,
            "downscale_delay_s": settings.downscale_delay_seconds,
        },
        graceful_shutdown_timeout_s=ServerSettings.grace_seconds,
        logging_config={"enable_access_log": False},  # services.json_log has a line for each call
    )
    return deployment.bind([folder.resolve() for folder in bundles], engine, settings.tokens_file)


@contextmanager
def running(bundles: Sequence[Path], engine: EngineSettings, settings: ClusterSettings) -> Iterator[None]:
    """The service, answering calls; it ends with the statement, and a local cluster with it.

    Raises ValueError where something is missing or too small, ConnectionError where there is no cluster or the service
    does not start on it.
    """
    for folder in bundles:
        sharing.load(folder)
    if settings.tokens_file is not None:
        Tokens(settings.tokens_file)
    if settings.address == "local":
        for port in (settings.port, settings.health_port):
            _check_free(port)
    with _ray(settings) as ray:
        from ray import serve

        cpus, wanted = int(ray.cluster_resources().get("CPU", 0)), settings.min_replicas * (engine.threads or 1)
        if cpus < wanted:
            raise ValueError(f"{settings.min_replicas} replicas need {wanted} CPUs, the cluster has {cpus}")
        if any(actor["name"] == "SERVE_CONTROLLER_ACTOR" for actor in ray.util.list_named_actors(True)):
            raise ValueError("Ray Serve runs on the cluster already, and its proxies take no further services")
        try:
            _start(serve, bundles, engine, settings)
            yield
        finally:
            _drain(serve)


def _check_free(port: int) -> None:
    """Ray would share the port with its other user, or begin again and again."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(f"port {port} is taken") from error


def _start(serve: Any, bundles: Sequence[Path], engine: EngineSettings, settings: ClusterSettings) -> None:
    local, closed = settings.address == "local", settings.tokens_file is not None
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": "127.0.0.1" if local else "0.0.0.0", "port": settings.health_port},
            grpc_options={
                "port": settings.port,
                "grpc_servicer_functions": ["services.proxy.add_services"],
                "enable_reflection": not closed,  # nobody asks a token of it
            },
        )
        # Without a route prefix the proxies would not know of the application.
        serve.run(application(bundles, engine, settings), name=APPLICATION, route_prefix="/captioner")
    except RuntimeError as error:
        raise ConnectionError(f"the service does not start on the cluster: {error}") from error


def _drain(serve: Any) -> None:
    """End the service; within a limit, because Ray waits for ever for a cluster that is gone."""

    def drain() -> None:
        serve.delete(APPLICATION)
        serve.shutdown()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)
    if thread.is_alive():
        log.error("the cluster did not end the service within %g s", STOP_SECONDS)


@contextmanager
def _ray(settings: ClusterSettings) -> Iterator[Any]:
    """Ray, connected; a local cluster ends with the statement."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its makers
    if settings.address == "local":
        # See eval.on_ray: or Ray's own ports would be open to other machines.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str(MESSAGE_BYTES))
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise ValueError(f"a cluster needs Ray: install captioner[cluster] ({error})") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        try:
            if settings.address == "local":
                ray.init("local", num_cpus=settings.num_cpus, include_dashboard=False, **quiet)
            else:
                host, _, port = settings.address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
                packages = [str(Path(__file__).parents[1] / name) for name in ("captioner", "services")]
                ray.init(settings.address, runtime_env={"py_modules": packages}, **quiet)
        except Exception as error:
            raise ConnectionError(f"no Ray at {settings.address}: {error}") from error
        yield ray
    finally:
        ray.shutdown()


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, serve until SIGTERM or SIGINT."""
    given = _parser().parse_args(arguments)
    handler = json_log.set_up(given.log == "json")
    stop = threading.Event()
    try:
        engine = engine_settings(given)
        settings = ClusterSettings(
            address=given.address,
            num_cpus=given.num_cpus,
            port=given.port,
            health_port=given.health_port,
            min_replicas=given.min_replicas,
            max_replicas=given.max_replicas or given.min_replicas,
            upscale_delay_seconds=given.upscale_delay,
            downscale_delay_seconds=given.downscale_delay,
            max_waiting=given.max_waiting,
            tokens_file=given.tokens and given.tokens.resolve(),
        )
        with running(given.bundle or [default_bundle()], engine, settings):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            log.info("serving on port %d of every machine with a replica", settings.port)
            stop.wait()
            log.info("draining")
    except (ValueError, ConnectionError, BundleError, SecurityError) as error:
        sys.exit(f"error: {error}")
    finally:
        handler.close()


def _parser() -> argparse.ArgumentParser:
    cluster = ClusterSettings()
    parser = argparse.ArgumentParser(prog="python -m services.cluster", description="Serve bundles on a Ray cluster.")
    add = parser.add_argument
    add("--bundle", type=Path, action="append", metavar="DIR",
        help="folder of a model (the box), at the same path on every machine; the first is the default")  # fmt: skip
    add("--address", default=cluster.address, metavar="HOST:PORT", help="of a Ray cluster; %(default)s makes one here")
    add("--num-cpus", type=int, metavar="N", help="of a local cluster (as many as this machine has)")
    add("--port", type=int, default=cluster.port, help="of gRPC, on all interfaces (%(default)s)")
    add("--health-port", type=int, default=cluster.health_port, metavar="PORT", help="of /-/healthz (%(default)s)")
    add("--min-replicas", type=int, default=cluster.min_replicas, metavar="N", help="(%(default)s)")
    add("--max-replicas", type=int, metavar="N", help="(as --min-replicas)")
    add("--upscale-delay", type=float, default=cluster.upscale_delay_seconds, metavar="SECONDS",
        help="of too many calls, before there are more replicas (%(default)g)")  # fmt: skip
    add("--downscale-delay", type=float, default=cluster.downscale_delay_seconds, metavar="SECONDS",
        help="of too few calls, before there are fewer (%(default)g)")  # fmt: skip
    add("--max-waiting", type=int, default=cluster.max_waiting, metavar="N",
        help="calls waiting in a proxy while no replica has room; one more is refused (%(default)s)")  # fmt: skip
    add("--tokens", type=Path, metavar="FILE", help="bearer tokens, at the same path on every machine (none)")
    threads_help = "of one run of a model, and CPUs of a replica (%(default)s)"
    queue_help = "pictures waiting or worked on in one replica; one more is refused"
    add_engine_flags(parser, 2, threads_help, queue_help)
    return parser


if __name__ == "__main__":
    main()
