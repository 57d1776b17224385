"""services.cluster on a local Ray, for the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from services.cluster import ClusterSettings, running
from services.load.own_server import free_ports
from services.settings import EngineSettings

# Not importorskip: Ray must be told where to listen before it is imported. Ray Data alone brings no FastAPI.
needs_ray = pytest.mark.skipif(
    not (find_spec("ray") and find_spec("fastapi")), reason="Ray Serve is not installed: the extra `cluster` brings it"
)


@contextmanager
def cluster(bundles: Sequence[Path], engine: EngineSettings, **settings: Any) -> Iterator[str]:
    """The address of the proxy of a local Ray with 4 logical CPUs; skips the test where Ray does not start in time."""
    port, health_port = free_ports(2)
    where = ClusterSettings(num_cpus=4, port=port, health_port=health_port, **settings)
    with ExitStack() as stack:
        try:
            stack.enter_context(running(bundles, engine, where))
        except ConnectionError as error:
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("the machine is too busy for Ray, which starts within 15 seconds or not at all")
        yield f"127.0.0.1:{where.port}"


def replicas() -> list[str]:
    """The names of Ray's actors that serve."""
    import ray

    return [actor["name"] for actor in ray.util.list_named_actors(True) if "SERVE_REPLICA" in actor["name"]]
