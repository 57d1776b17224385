"""Load a real server with everything at once for as long as one likes: what it holds must not grow.

    python -m tests.soak --minutes 20 [--bundle BUNDLE] [--out FOLDER]

Captions, questions, drawings, streams, bad pictures, deadlines too short, calls over HTTP, cancelled calls, connections
that stand still and, every half minute, a reload of a new version. Memory, file descriptors, threads and tasks of the
server go into soak.csv every ten seconds, a line is fitted to each after the warm-up (soak.json, soak.png), and at both
ends they are compared without load. Exit status 1 if one grows or a call ends as it should not.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from captioner.bundle import seal
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from tests.running_server import jpeg
from tests.server_process import Served, Usage, serving, tiny_bundle

SAMPLE_SECONDS, RELOAD_SECONDS, QUIET_SECONDS = 10.0, 30.0, 3.0
WARM_UP = 0.25
"""Of the time: caches fill, and the allocator reaches its size."""
ALLOWED = Usage(rss_bytes=24 * 2**20, descriptors=4, threads=8, tasks=4)
"""Growth over the whole time after the warm-up that counts as flat; gRPC's pool of threads breathes."""
ERRORS = 3.0
"""Standard errors that a slope must exceed to count."""
PICTURES = [jpeg(480, 640, shade=shade) for shade in range(250)]
BAD = {"": "INVALID_ARGUMENT", "noise": "INVALID_ARGUMENT", "cut": "INVALID_ARGUMENT", "model": "NOT_FOUND"}


class Caller:
    """One of many, on a connection of its own that it renews now and then; counts how its calls ended."""

    def __init__(self, server: Served, web_port: int, answers: bool, seed: str, counts: Counter[tuple[str, str]]):
        self.server, self.web_port, self.counts = server, web_port, counts
        self.pick = random.Random(seed)
        kinds = {"caption": 8, "stream": 2, "figure": 1, "bad": 2, "late": 1, "cancelled": 3, "slow": 0.3, "http": 1}
        self.kinds = {**kinds, "question": 4} if answers else kinds

    async def work(self, done: asyncio.Event) -> None:
        """Call until it is done."""
        while not done.is_set():
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(self.server.target, options) as channel:
                stub = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
                for _ in range(self.pick.randrange(1, 50)):
                    if done.is_set():
                        return
                    [kind] = self.pick.choices(list(self.kinds), list(self.kinds.values()))
                    try:
                        ended = await getattr(self, kind)(stub)
                    except grpc.aio.AioRpcError as error:
                        ended = error.code().name
                    self.counts[kind, ended] += 1

    def request(self, **fields: Any) -> pb.CaptionImageRequest:
        """A picture, mostly new: a comment makes another file of it."""
        number = self.pick.choice((self.pick.randrange(50), self.pick.randrange(2**31)))
        image = PICTURES[number % len(PICTURES)]
        image = image[:2] + b"\xff\xfe\0\6" + number.to_bytes(4, "big") + image[2:]
        return pb.CaptionImageRequest(image=image, beam_size=self.pick.choice((1, 7)), **fields)

    async def caption(self, stub: Any) -> str:
        response = await stub.CaptionImage(self.request(include_attention=self.pick.random() < 0.2), timeout=60)
        return "OK" if response.captions else "EMPTY"

    async def question(self, stub: Any) -> str:
        request = pb.AnswerQuestionRequest(image=self.request().image, question="what is on the grass", top=3)
        return "OK" if (await stub.AnswerQuestion(request, timeout=60)).answers else "EMPTY"

    async def figure(self, stub: Any) -> str:
        return "OK" if (await stub.DrawAttention(pb.DrawAttentionRequest(image=self.request().image))).png else "EMPTY"

    async def stream(self, stub: Any) -> str:
        wanted = {str(n): self.request() for n in range(8)}
        wanted["bad"] = pb.CaptionImageRequest(image=b"no picture")
        requests = [pb.StreamCaptionImagesRequest(id=name, request=request) for name, request in wanted.items()]
        got = {response.id: response async for response in stub.StreamCaptionImages(iter(requests), timeout=120)}
        fine = {name for name, response in got.items() if response.response.captions}
        return "OK" if fine == wanted.keys() - {"bad"} and got["bad"].error.code == 3 else "EMPTY"

    async def bad(self, stub: Any) -> str:
        kind, request = self.pick.choice(list(BAD)), self.request()
        if kind == "model":
            request.model = "another"
        else:
            request.image = {"": b"", "noise": self.pick.randbytes(500), "cut": request.image[:3000]}[kind]
        try:
            await stub.CaptionImage(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            return "OK" if error.code().name == BAD[kind] else error.code().name
        return "ANSWERED"

    async def late(self, stub: Any) -> str:
        try:
            await stub.CaptionImage(self.request(), timeout=self.pick.uniform(0.0005, 0.02))
        except grpc.aio.AioRpcError as error:
            return "OK" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else error.code().name
        return "OK"

    async def cancelled(self, stub: Any) -> str:
        pictures = [pb.StreamCaptionImagesRequest(id=str(n), request=self.request()) for n in range(4)]
        stream = self.pick.random() < 0.3
        call = stub.StreamCaptionImages(iter(pictures)) if stream else stub.CaptionImage(self.request(), timeout=60)
        await asyncio.sleep(self.pick.uniform(0, 0.2))
        call.cancel()
        code = (await call.code()).name
        return "OK" if code == "CANCELLED" else code

    async def slow(self, stub: Any) -> str:
        """A stream with pauses beside a connection that sends half a greeting."""
        host, port = self.server.target.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n")

        async def pictures() -> Any:
            for n in range(3):
                await asyncio.sleep(self.pick.uniform(0, 3))
                yield pb.StreamCaptionImagesRequest(id=str(n), request=self.request())

        try:
            responses = [response async for response in stub.StreamCaptionImages(pictures(), timeout=60)]
        finally:
            writer.close()
        return "OK" if len(responses) == 3 and all(each.response.captions for each in responses) else "EMPTY"

    async def http(self, stub: Any) -> str:
        body = self.request().SerializeToString()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.web_port)
        head = "POST /captioner.v1.CaptionService/CaptionImage HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{head}content-type: application/proto\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            status = (await asyncio.wait_for(reader.read(), 60)).split(b" ", 2)[1].decode()
        except IndexError:
            status = "nothing"
        finally:
            writer.close()
        return "OK" if status == "200" else status


EXPECTED = {"late": {"OK", "RESOURCE_EXHAUSTED"}}
"""How calls may end, but for "OK": the second where the calls before it leave it no time."""


@dataclass(frozen=True)
class Fit:
    """A line through the samples after the warm-up."""

    per_hour: float
    error_per_hour: float
    growth: float
    """Along the line, from the end of the warm-up to the end."""
    mean: float

    @staticmethod
    def of(seconds: Any, values: Any) -> Fit:
        """Least squares; the error is that of the slope."""
        x, y = np.asarray(seconds, float), np.asarray(values, float)
        slope, start = np.polyfit(x, y, 1)
        spread = ((x - x.mean()) ** 2).sum()
        error = float(np.sqrt(((y - slope * x - start) ** 2).sum() / max(1, len(x) - 2) / spread))
        return Fit(3600 * float(slope), 3600 * error, float(slope * (x[-1] - x[0])), float(y.mean()))

    def grows(self, allowed: float) -> bool:
        """By more than is allowed, and more than chance."""
        return self.growth > allowed and self.per_hour > ERRORS * self.error_per_hour


async def soak(server: Served, folder: Path, minutes: float, callers: int, seed: int) -> dict[str, Any]:
    """Load, sample, compare; see main()."""
    loop = asyncio.get_running_loop()
    port = int(server.process.said(r"web page on http://[\d.]+:(\d+)"))
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)  # type: ignore[no-untyped-call]
        answers = (await stub.GetModel(pb.GetModelRequest())).model.answers_questions
    counts: Counter[tuple[str, str]] = Counter()
    samples: list[tuple[float, Usage, int]] = []
    begin = time.monotonic()
    reloads = 0

    async def loaded(until: float) -> Usage:
        """Load until that second; what the server has a moment later, without load."""
        nonlocal reloads
        done = asyncio.Event()
        each = [Caller(server, port, answers, f"{seed} {until} {number}", counts) for number in range(callers)]
        tasks = [asyncio.create_task(caller.work(done)) for caller in each]
        while (now := time.monotonic() - begin) < until:
            samples.append((now, await loop.run_in_executor(None, server.usage), sum(counts.values())))
            if now > (reloads + 1) * RELOAD_SECONDS:
                reloads += 1
                (folder / "scores.json").write_text(json.dumps({"reload": reloads}))
                seal(folder)
                server.process.send(signal.SIGHUP)
            await asyncio.sleep(min(SAMPLE_SECONDS, until - now))
        done.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(QUIET_SECONDS)
        return await loop.run_in_executor(None, server.usage)

    quiet = [await loaded(60 * minutes * WARM_UP), await loaded(60 * minutes)]
    metrics = await loop.run_in_executor(None, server.metrics)
    warm = [sample for sample in samples if sample[0] > 60 * minutes * WARM_UP]
    fits = {
        name: Fit.of([at for at, _, _ in warm], [getattr(usage, name) for _, usage, _ in warm])
        for name in Usage._fields
    }
    wrong = {
        f"{kind} {ended}": count
        for (kind, ended), count in sorted(counts.items())
        if ended not in EXPECTED.get(kind, {"OK"})
    }
    faults = [name for name, fit in fits.items() if fit.grows(getattr(ALLOWED, name))]
    faults += [
        f"{name} without load"
        for name in Usage._fields
        if getattr(quiet[1], name) > getattr(quiet[0], name) + getattr(ALLOWED, name)
    ]
    faults += [f"{count} x {name}" for name, count in wrong.items()]
    reloaded = metrics['captioner_reloads_total{outcome="ok"}']
    if reloaded != reloads or metrics["captioner_admitted_images"]:
        faults.append(f"{reloaded:.0f} of {reloads} reloads, {metrics['captioner_admitted_images']:.0f} pictures left")
    return {
        "minutes": minutes, "callers": callers, "reloads": reloads, "faults": faults,
        "calls": {f"{kind} {ended}": count for (kind, ended), count in sorted(counts.items())},
        "fits": {name: vars(fit) for name, fit in fits.items()},
        "quiet": [usage._asdict() for usage in quiet],
        "samples": [(round(at, 1), *usage, calls) for at, usage, calls in samples],
    }  # fmt: skip


def plot(found: dict[str, Any], path: Path) -> None:
    """Each measure over the minutes, and its line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = np.array(found["samples"], float)
    minutes, warm = table[:, 0] / 60, table[:, 0] > 60 * found["minutes"] * WARM_UP
    figure, panels = pyplot.subplots(4, 1, figsize=(8, 9), sharex=True, layout="constrained")
    for column, (panel, name) in enumerate(zip(panels, Usage._fields, strict=True), 1):
        scale, unit = (2**20, "memory, MiB") if name == "rss_bytes" else (1, name)
        fit = found["fits"][name]
        panel.plot(minutes, table[:, column] / scale, ".-", linewidth=0.7, color="tab:blue")
        x = minutes[warm]
        line = fit["mean"] + fit["per_hour"] / 60 * (x - x.mean())
        panel.plot(x, line / scale, color="tab:orange")
        panel.set_title(f"{fit['per_hour'] / scale:+.2f} ± {fit['error_per_hour'] / scale:.2f} an hour", fontsize=9)
        panel.set_ylabel(unit)
        panel.set_ylim(0, 1.15 * table[:, column].max() / scale)
    panels[-1].set_xlabel(f"minutes; {int(table[-1, 5]):,} calls, {found['reloads']} reloads")
    figure.savefig(path)


def main() -> int:
    """Run, write the files, print the verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--bundle", type=Path, help="copied, so that it can be reloaded (the tiny one of the tests)")
    parser.add_argument("--callers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/soak"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(args.bundle or tiny_bundle(), Path(name) / "bundle"))
        with serving("--bundle", folder, "--web-port", "0", "--max-queue", "256") as server:
            found = asyncio.run(soak(server, folder, args.minutes, args.callers, args.seed))
            if status := server.process.stop():
                found["faults"].append(f"exit status {status}")
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "soak.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seconds", *Usage._fields, "calls"), *found["samples"]])
    samples = found.pop("samples")
    (args.out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    plot({**found, "samples": samples}, args.out / "soak.png")
    for name in Usage._fields:
        fit, scale = Fit(**found["fits"][name]), 2**20 if name == "rss_bytes" else 1
        ends = [usage[name] / scale for usage in found["quiet"]]
        print(
            f"{name.replace('_bytes', ', MiB'):12} mean {fit.mean / scale:8.1f}, an hour {fit.per_hour / scale:+8.2f} "
            f"± {fit.error_per_hour / scale:.2f}; without load {ends[0]:.1f} -> {ends[1]:.1f}"
        )
    print(
        f"{sum(found['calls'].values())} calls, {found['reloads']} reloads: " + ("; ".join(found["faults"]) or "flat")
    )
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
