"""`python -m services.cluster`: replicas come when there are callers for them, and go without a lost call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from captioner.client import Client
from services.settings import EngineSettings
from tests.ray_serve import cluster, needs_ray, replicas
from tests.running_server import jpeg, wait_until

RAY_SECONDS = 120
"""Ray looks at the calls of 30 s, and hears of them every 10."""


@needs_ray
def test_replicas_come_with_callers_and_go_without_a_lost_call(tiny_bundle):
    few, stop = threading.Event(), threading.Event()

    def call(number):
        count = 0
        while not (stop.is_set() or (number and few.is_set())):
            client.caption(jpeg(shade=number + count % 100))
            count += 1
        return count

    quick = {"upscale_delay_seconds": 1, "downscale_delay_seconds": 1}
    with (
        cluster([tiny_bundle], EngineSettings(max_batch=2, threads=1), max_replicas=2, **quick) as target,
        Client(target, timeout=60) as client,
        ThreadPoolExecutor(12) as callers,
    ):
        assert len(replicas()) == 1
        calls = [callers.submit(call, number) for number in range(12)]
        try:
            wait_until(lambda: len(replicas()) == 2, RAY_SECONDS)
            few.set()
            wait_until(lambda: len(replicas()) == 1, RAY_SECONDS)
        finally:
            few.set()
            stop.set()
        assert min(each.result(60) for each in calls) > 0
