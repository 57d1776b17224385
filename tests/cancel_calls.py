"""Cancel calls of every method at moments drawn at random, many at a time: the server must forget them all.

    python -m tests.cancel_calls --calls 10000 [--bundle BUNDLE]

Exit status 1 unless then no picture is admitted, descriptors, threads and tasks are as before, and the next request is
answered. Half a minute on two free cores with the tiny bundle.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from tests.running_server import jpeg, wait_until
from tests.server_process import Served, serving, tiny_bundle

CALLERS, CHANNELS = 40, 4
PICTURES = [jpeg(shade=shade) for shade in range(250)]
QUEUE = ("--max-queue", str(4 * CALLERS))
"""None is refused for that: a stream has three pictures, and calls overlap a little."""
SETTLED_SECONDS = 30.0
"""How long threads and connections may take to end."""
RSS_BYTES = 64 * 2**20
"""What the allocator may keep."""


def begun(stub: Any, pick: random.Random) -> Any:
    """A call of some method."""
    image = pick.choice(PICTURES)
    caption = pb.CaptionImageRequest(image=image, beam_size=pick.choice((1, 7)))
    match pick.choices(("caption", "question", "stream", "figure"), (6, 3, 2, 1))[0]:
        case "caption":
            return stub.CaptionImage(caption, timeout=60)
        case "question":
            return stub.AnswerQuestion(pb.AnswerQuestionRequest(image=image, question="what is on the grass"))
        case "figure":
            return stub.DrawAttention(pb.DrawAttentionRequest(image=image))
        case _:
            several = [pb.StreamCaptionImagesRequest(id=str(n), request=caption) for n in range(3)]
            return stub.StreamCaptionImages(iter(several), timeout=60)


async def cancel_calls(target: str, count: int, seed: int = 0) -> Counter[str]:
    """Until so many calls have ended as cancelled; how often each code came."""
    codes: Counter[str] = Counter()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(CHANNELS)]

    async def caller(number: int) -> None:
        pick = random.Random(f"{seed} {number}")
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channels[number % CHANNELS])  # type: ignore[no-untyped-call]
        while codes["CANCELLED"] < count:
            call = begun(stub, pick)
            await asyncio.sleep(pick.uniform(0, pick.choice((0.005, 0.05, 0.3))))
            call.cancel()
            codes[(await call.code()).name] += 1

    try:
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    finally:
        for channel in channels:
            await channel.close()
    return codes


def leave_nothing(server: Served, count: int) -> str:
    """Cancel so many, and raise AssertionError unless nothing is left of them; a sentence on what was done."""

    def admitted() -> float:
        return server.metrics()["captioner_admitted_images"]

    def told() -> tuple[set[str], int]:
        """How the server says that calls ended, and how many it dropped while a model worked on them."""
        metrics = server.metrics()
        ended = {found[1] for name in metrics if (found := re.match(r'captioner_requests_total{code="(\w+)"', name))}
        return ended, int(metrics['captioner_rejected_total{reason="cancelled"}'])

    asyncio.run(cancel_calls(server.target, 10 * CALLERS))  # the first ones start threads
    wait_until(lambda: admitted() == 0, SETTLED_SECONDS)
    time.sleep(1)
    before, begin, (_, dropped) = server.usage(), time.monotonic(), told()
    codes = asyncio.run(cancel_calls(server.target, count, 1))
    seconds = time.monotonic() - begin
    assert server.answers(pb.CaptionImageRequest(image=PICTURES[0]))
    wait_until(lambda: admitted() == 0, SETTLED_SECONDS)
    end = time.monotonic() + SETTLED_SECONDS
    while not (after := server.usage()).within(before, RSS_BYTES):
        assert time.monotonic() < end, f"before {before}, after {after}"
        time.sleep(0.1)
    # gRPC itself refuses streams (UNAVAILABLE) while more are opened and reset than it has taken in, and its client
    # says INTERNAL where it was just sending; our own server may not.
    assert codes.keys() <= {"CANCELLED", "OK", "UNAVAILABLE", "INTERNAL"}, codes
    ended, now_dropped = told()
    assert ended <= {"CANCELLED", "OK"}, ended
    assert now_dropped > dropped
    in_engine = f"{now_dropped - dropped} pictures were dropped by the engine"
    return f"{dict(codes)} in {seconds:.0f} s, {in_engine}; before {before}, after {after}"


def main() -> int:
    """Start a server, cancel calls, print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cancel_calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--bundle", type=Path, help="(the tiny one of the tests)")
    args = parser.parse_args()
    with serving("--bundle", args.bundle or tiny_bundle(), "--threads", "1", *QUEUE) as server:
        print(leave_nothing(server, args.calls))
        return server.process.stop()


if __name__ == "__main__":
    sys.exit(main())
