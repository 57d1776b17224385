"""`python -m eval captions --ray ADDRESS`: the same batches, captioned on a Ray cluster by Ray Data.

A row is a whole batch of the journal from beginning to end, because int8 activations are scaled over a batch: only the
same batches give the same captions. Tasks decode, actors that loaded the bundle once encode and search, and finished
batches come back in any order into the journal, which is therefore also what a killed run goes on from. A picture that
cannot be read is an entry of the row's "record": an exception would end the whole job.

Every machine must see the bundle and the pictures under the paths that they have here, and have the extra `cluster`
installed. int8 is exact only among processors that have the same instructions for it (VNNI or not).
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from captioner.bundle import Precision
from captioner.captioner import Captioner
from captioner.config import Preprocessing, SearchOptions
from eval.captions import caption_batch, progress, unfinished
from eval.coco import CocoPicture
from eval.decoding import decode
from eval.journal import Journal
from eval.stopwatch import Stopwatch

LOCAL_CPUS = 4
"""Logical ones, whatever the machine has."""
MIN_CPUS = 3
"""With fewer, decoding and captioning wait for each other for ever."""
ENGINE_CPUS = 2
"""Of an actor, and threads of its engine, unless --threads says otherwise."""

CONNECT_S = 10

Row = dict[str, Any]


def caption_batches(
    captioner: Captioner,
    batches: Sequence[Sequence[CocoPicture]],
    searches: Sequence[SearchOptions],
    journal: Journal,
    address: str,
    threads: int | None = None,
) -> dict[str, Any]:
    """Bring the journal up to date; returns the throughput. address: of a cluster, or "local" for one made for this.

    Raises ValueError if Ray is not installed or the cluster too small, ConnectionError if there is none,
    ChildProcessError if the job fails.
    """
    todo = unfinished(journal, batches)
    if not todo:
        return Stopwatch().report(0)
    rows = [{"batch": n, "pictures": pickle.dumps(batches[n])} for n in todo]
    with _cluster(address) as ray, progress(batches, todo) as bar:
        watch = Stopwatch()
        try:
            for row in _job(ray, rows, captioner, searches, threads or ENGINE_CPUS):
                journal.append(row["batch"], json.loads(row["record"]))
                bar.update(len(batches[row["batch"]]))
        except ray.exceptions.RayError as e:
            raise ChildProcessError(f"the job on Ray failed: {str(e).strip().splitlines()[-1]}") from e
        return watch.report(sum(len(batches[n]) for n in todo))


@contextmanager
def _cluster(address: str) -> Iterator[ModuleType]:
    """Ray, connected; a local cluster listens on the loopback interface only and ends with the statement."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its makers
    if address == "local":
        # Ray turns 127.0.0.1 into the machine's own address and listens on all interfaces, unless told before it is
        # imported, as it is by default on Windows and macOS, that there will be no other machine.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise ValueError(f"--ray needs Ray: install captioner[cluster] ({e})") from e
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        try:
            if address == "local":
                ray.init("local", num_cpus=LOCAL_CPUS, include_dashboard=False, **quiet)
            else:
                _reach(address)
                packages = [str(Path(__file__).parents[1] / name) for name in ("captioner", "eval")]
                ray.init(address, runtime_env={"py_modules": packages}, **quiet)
        except Exception as e:  # as a bare Exception too
            raise ConnectionError(f"no Ray at {address}: {e}") from e
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """OSError at once if nobody listens at host:port: Ray tries for ten minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.rpartition("/")[2], int(port)), CONNECT_S).close()


def _job(
    ray: ModuleType, rows: Sequence[Row], captioner: Captioner, searches: Sequence[SearchOptions], threads: int
) -> Iterator[Row]:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < max(MIN_CPUS, threads + 1):
        raise ValueError(f"the Ray cluster must have at least {max(MIN_CPUS, threads + 1)} CPUs, it has {cpus}")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    bundle = captioner.bundle
    decoded = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        _decode_row, fn_args=[bundle.model.preprocessing]
    )
    captioned = decoded.map(
        _CaptionRow,
        fn_constructor_args=[bundle.folder.resolve(), captioner.precision, threads, searches],
        num_cpus=threads,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=(cpus - 1) // threads),
    )
    yield from captioned.iter_rows()


def _decode_row(row: Row, preprocessing: Preprocessing) -> Row:
    paths = [picture.path for picture in pickle.loads(row["pictures"])]
    return {**row, "decoded": pickle.dumps(decode(paths, preprocessing))}


class _CaptionRow:
    """An actor: a loaded bundle that turns decoded rows into records."""

    def __init__(self, bundle: Path, precision: Precision, threads: int, searches: Sequence[SearchOptions]):
        self._captioner = Captioner.load(bundle, precision, threads)
        self._searches = searches

    def __call__(self, row: Row) -> Row:
        batch, decoded = pickle.loads(row["pictures"]), pickle.loads(row["decoded"])
        record = caption_batch(self._captioner, batch, decoded, self._searches, Stopwatch())
        return {"batch": row["batch"], "record": json.dumps(record, ensure_ascii=False)}
