"""python -m services.load [run | capacity | compare]: see services/docs/load.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc

from captioner import Captioner
from captioner.atomic import write_json
from captioner.connection import Tls
from services.engine import Engine
from services.load.callers import Asking, Callers
from services.load.capacity import Batches, Plan, capacity, compare
from services.load.open_loop import Ran, run
from services.load.own_server import own_server
from services.load.photos import Photos, read_photos
from services.load.plot import plot
from services.load.schedule import schedule, shares
from services.load.summary import summary, text
from services.settings import EngineSettings


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0].startswith("--") and arguments[0] != "--help":
        arguments = ["run", *arguments]
    given = _parser().parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        asyncio.run({"run": _run, "capacity": _capacity, "compare": _compare}[given.command](given))
    except grpc.RpcError as error:
        sys.exit(f"error: the server does not answer: {error.code().name} {error.details()}")
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")


async def _run(given: argparse.Namespace) -> None:
    mix = shares(given.mix)
    calls = schedule(given.rate, given.seconds, given.warm, mix, given.poisson, given.seed)
    callers = _callers(given, given.server)
    try:
        about = await _about(given, callers)
        ran = await run(calls, given.seconds, callers, given.deadline, given.most)
    finally:
        await callers.close()
    figures = {**summary(ran, given.deadline), "rate": given.rate, "mix": mix, "poisson": given.poisson, **about}
    ran.records.write_csv(given.out / "calls.csv")
    _write(given, "run", figures, {f"{given.rate:g} calls a second": (ran, given.deadline)})
    print(text(figures))


async def _capacity(given: argparse.Namespace) -> None:
    chosen = EngineSettings(threads=given.threads, precision=given.precision)
    flags = [f"--{name}={value}" for name in ("threads", "precision") if (value := getattr(given, name)) is not None]
    own = nullcontext(None) if given.server else own_server(given.bundle, given.out / "server.log", flags)
    captioner = Captioner.load(given.bundle, chosen.precision, chosen.threads, memory_bytes=chosen.memory_bytes)
    batches = Batches()
    engine = Engine(captioner, chosen, batches)
    try:
        await engine.warm_up()
        with own as server:
            callers = _callers(given, given.server or [server.address])
            try:
                about = await _about(given, callers)
                if about["model"] != f"{captioner.bundle.name}@{captioner.bundle.version} {captioner.precision}":
                    raise ValueError(f"the server serves {about['model']}, which is not the bundle {given.bundle}")
                figures, runs = await capacity(callers, engine, _plan(given), server, batches)
            finally:
                await callers.close()
    finally:
        await engine.close()
    _write(given, "capacity", {**figures, **about}, runs)
    rates, over = figures["captions_per_s"], f"{given.overload:g} times capacity"
    print(f"server {rates['server']:.1f} captions/s, in process {rates['in_process']:.1f}, medians")
    print(f"ratio {figures['server_over_in_process']:.3f}, median of the rounds (aim: at least 0.85)")
    print(f"{over}, deadline {given.deadline:g} s: in time {figures['goodput_over_peak']:.2f} of the peak (aim: 0.80)")
    print(f"{over}: {figures['late_answers']} answers later than their deadline (aim: 0)")
    print("\n| | p50 ms | p99 ms | refused |\n|---|---|---|---|")
    for name, level in figures["levels"].items():
        times = level["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
        refused = 1 - level["answered_per_s"] / level["offered_per_s"]
        print(f"| {name}, {level['offered_per_s']:.1f}/s | {times['p50']:.0f} | {times['p99']:.0f} | {refused:.1%} |")


async def _compare(given: argparse.Namespace) -> None:
    first, second = _callers(given, given.server), _callers(given, given.against)
    try:
        about = await _about(given, first)
        about["against"] = f"{(other := await second.model()).name}@{other.version} {other.precision}"
        figures, runs = await compare(first, second, _plan(given), given.share)
    finally:
        await first.close()
        await second.close()
    _write(given, "compare", {**figures, **about}, runs)
    rates, times = figures["captions_per_s"], figures["latency_ms"]
    print(
        f"captions/s {rates['first']:.1f} and {rates['second']:.1f}: {figures['first_over_second']:.2f} times as many"
    )
    print(f"at {figures['rate']:.1f}/s, p50 {times['first']['p50']:.0f} and {times['second']['p50']:.0f} ms, "
          f"p99 {times['first']['p99']:.0f} and {times['second']['p99']:.0f} ms: "
          f"p99 of the second is {figures['second_p99_over_first']:.2f} times the first's")  # fmt: skip


def _callers(given: argparse.Namespace, servers: list[str]) -> Callers:
    wanted = any((given.tls, given.tls_ca, given.tls_certificate, given.tls_key))
    tls = Tls(given.tls_ca, given.tls_certificate, given.tls_key) if wanted else None
    token = None if given.token_file is None else given.token_file.read_text(encoding="utf-8").strip()
    asking = Asking(given.beam_size, given.question, given.model)
    return Callers(
        servers, Photos(read_photos(given.photos, given.size)), asking, given.channels, tls, token, given.throttle
    )


async def _about(given: argparse.Namespace, callers: Callers) -> dict[str, Any]:
    model = await callers.model()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"WARNING: the machine is busy (load {load:.1f}): figures are not to be quoted", file=sys.stderr)
    return {
        "model": f"{model.name}@{model.version} {model.precision}",
        "beam_size": given.beam_size,
        "throttle": given.throttle,
        "photos": len(callers.photos.jpegs),
        "mean_photo_bytes": sum(map(len, callers.photos.jpegs)) / len(callers.photos.jpegs),
        "size": given.size,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_before": load,
    }


def _write(
    given: argparse.Namespace, name: str, figures: Mapping[str, Any], runs: dict[str, tuple[Ran, float]]
) -> None:
    write_json(given.out / f"{name}.json", figures)
    if not given.no_plot:
        plot(runs, given.out / f"{name}.svg")
    print(f"written to {given.out}", file=sys.stderr)


def _plan(given: argparse.Namespace) -> Plan:
    default = Plan()
    return Plan(
        given.rounds,
        given.seconds,
        given.warm,
        given.callers,
        getattr(given, "overload", default.overload),
        getattr(given, "deadline", default.deadline),
        level_seconds=getattr(given, "level_seconds", default.level_seconds),
        poisson=given.poisson,
    )


def _size(value: str) -> tuple[int, int]:
    width, by, height = value.partition("x")
    if not by or not width.isdecimal() or not height.isdecimal():
        raise argparse.ArgumentTypeError(f"must be like 640x480, got {value!r}")
    return int(width), int(height)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.load", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    both = argparse.ArgumentParser(add_help=False)
    add = both.add_argument
    add("--photos", type=Path, nargs="+", required=True, metavar="PATH", help="pictures, or folders of them")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add("--beam-size", type=int, default=7, help="(%(default)s)")
    add("--question", default="what is this?", help="of callers who ask (%(default)s)")
    add("--model", default="", help="its name, if it is not the server's first")
    add("--channels", type=int, default=2, help="connections to each server (%(default)s)")
    add(
        "--throttle", type=float, metavar="K", help="hold calls back as a client does: captioner/throttle.py (send all)"
    )
    add("--token-file", type=Path, metavar="FILE", help="holds the token that the server asks for")
    add("--tls", action="store_true", help="encrypt; any known authority may vouch for the server")
    add("--tls-ca", type=Path, metavar="FILE", help="encrypt; only these authorities may (PEM)")
    add("--tls-certificate", type=Path, metavar="FILE", help="our own, if the server asks for one (PEM)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    add("--poisson", action="store_true", help="calls come independently of each other, not evenly spaced")
    add("--no-plot", action="store_true", help="draw nothing: needs no matplotlib")

    add = commands.add_parser("run", parents=[both], help="calls at a fixed rate: an open loop").add_argument
    add("--server", action="append", required=True, metavar="HOST:PORT", help="several take turns")
    add("--rate", type=float, required=True, help="calls a second")
    add("--seconds", type=float, required=True, help="that are measured")
    add("--warm", type=float, default=2.0, help="seconds before them that are not (%(default)s)")
    add("--deadline", type=float, default=10.0, help="of each call, in seconds from its time (%(default)s)")
    add("--mix", default="good=1", help="shares of good, bad, slow, cancel and question callers (%(default)s)")
    add("--most", type=int, default=1000, help="calls in flight; one more is not sent, and counted (%(default)s)")
    add("--size", type=_size, metavar="WxH", help="cut and scale pictures to it (leave them)")
    add("--seed", type=int, default=0, help="of the order of kinds, and of --poisson (%(default)s)")

    plan = Plan()
    rounds = argparse.ArgumentParser(add_help=False)
    add = rounds.add_argument
    add("--rounds", type=int, default=plan.rounds, help="(%(default)s)")
    add("--seconds", type=float, default=plan.seconds, help="of each part of a round (%(default)s)")
    add("--warm", type=float, default=plan.warm, help="seconds before each part (%(default)s)")
    add("--callers", type=int, default=plan.callers, help="at a time, in closed loops (%(default)s)")
    add("--size", type=_size, default=(640, 480), metavar="WxH", help="cut and scale pictures to it (640x480)")

    about = "captions a second beside the engine in process, latencies at shares of it, and overload"
    add = commands.add_parser("capacity", parents=[both, rounds], help=about).add_argument
    add("--bundle", type=Path, required=True, help="the model, for the engine in process and for a server of our own")
    add("--server", action="append", metavar="HOST:PORT", help="one that serves the bundle already (start one)")
    add("--threads", type=int, help="of one run of the model, in both (one per core)")
    add("--precision", choices=("int8", "fp32"), help="in both (int8 if the bundle has it)")
    add("--overload", type=float, default=plan.overload, help="times the capacity (%(default)s)")
    add("--deadline", type=float, default=plan.deadline, help="seconds, under overload (%(default)s)")
    add("--level-seconds", type=float, default=plan.level_seconds, help="at each share (%(default)s)")

    add = commands.add_parser("compare", parents=[both, rounds], help="two servers, in turns").add_argument
    add("--server", action="append", required=True, metavar="HOST:PORT")
    add("--against", action="append", required=True, metavar="HOST:PORT")
    add("--share", type=float, default=0.8, help="of the slower one's capacity, for latencies (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
