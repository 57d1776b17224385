"""Pictures read ahead of the engine: worker processes read, decode and resize while the engine runs.

A worker takes a whole batch, so that a picture costs no message of its own. Workers begin in a fresh interpreter
(forking beside the engine's threads can deadlock), import neither onnxruntime nor torch, and end with the process that
they work for.

Axes: B pictures, H, W height and width of the encoder's input, 3 red, green and blue.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.config import Preprocessing
from captioner.images import BadImage
from captioner.preprocess import load_pixels

AHEAD = 2
"""Batches that wait, decoded, for the engine, besides one in the hands of each worker."""


@dataclass(frozen=True)
class Unreadable:
    """Why a picture cannot be had."""

    reason: str
    """FILE_MISSING, FILE_UNREADABLE or a reason of BadImage."""
    message: str
    """One sentence that names the file."""


@dataclass(frozen=True)
class Decoded:
    """A batch as the encoder wants it."""

    pixels_BHW3: NDArray[np.uint8]
    """The pictures that could be read, in order."""
    unreadable: Mapping[int, Unreadable]
    """The others, by their place in the batch."""


def decode(paths: Sequence[Path], preprocessing: Preprocessing) -> Decoded:
    """Read, decode and resize a batch; a bad picture spoils nothing but itself."""
    pixels: list[NDArray[np.uint8]] = []
    unreadable: dict[int, Unreadable] = {}
    for place, path in enumerate(paths):
        try:
            pixels.append(load_pixels(path, preprocessing))
        except FileNotFoundError:
            unreadable[place] = Unreadable("FILE_MISSING", f"there is no file {path}")
        except OSError as e:
            unreadable[place] = Unreadable("FILE_UNREADABLE", f"{path}: {e.strerror}")
        except BadImage as e:
            unreadable[place] = Unreadable(e.reason, f"{path}: {e}")
    shape = (len(pixels), preprocessing.height, preprocessing.width, 3)
    return Decoded(np.array(pixels, np.uint8).reshape(shape), unreadable)


def decode_ahead(
    batches: Sequence[Sequence[Path]], preprocessing: Preprocessing, workers: int, ahead: int = AHEAD
) -> Iterator[Decoded]:
    """The batches in their order, decoded by that many processes, 0: by this one when asked for the next.

    At most workers + ahead batches are in hand at a time. Close the iterator to end the workers before the last batch.
    Raises ChildProcessError if a worker dies.
    """
    if workers == 0:
        yield from (decode(paths, preprocessing) for paths in batches)
        return
    pool = ProcessPoolExecutor(min(workers, len(batches) or 1), _context(), _begin)
    waiting: deque[tuple[Sequence[Path], Future[Decoded]]] = deque()
    try:
        for paths in batches:
            with _ctrl_c_later():  # it starts workers
                waiting.append((paths, pool.submit(decode, paths, preprocessing)))
            if len(waiting) == workers + ahead:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    except BrokenProcessPool as e:  # from submit
        raise _died(waiting[0][0] if waiting else paths) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _result(paths: Sequence[Path], batch: Future[Decoded]) -> Decoded:
    try:
        return batch.result()
    except BrokenProcessPool as e:
        raise _died(paths) from e


def _died(paths: Sequence[Path]) -> ChildProcessError:
    return ChildProcessError(
        "a process that decodes pictures died: killed, for lack of memory perhaps, or by a picture that crashes its "
        f"decoder, which is then among those from {paths[0]} on"
    )


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for all workers
    return context


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Keep SIGINT waiting: what is started meanwhile never gets it, not even before its first line of Python."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Leave Ctrl-C to the main process, which ends its workers; end by oneself only if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
