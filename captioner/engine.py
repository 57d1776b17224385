"""onnxruntime as captions need it: a fixed number of threads that hardly spin, and the truth about the GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from captioner.config import at_least, one_of

Provider = Literal["cpu", "cuda"]
SPIN_US = "50"
"""How long a thread without work spins before it sleeps."""
PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class EngineError(RuntimeError):
    """There is no engine, or not the one that was asked for."""


class Stopped(RuntimeError):  # noqa: N818 - nothing went wrong
    """A run was ended by its Stop."""


class Stop:
    """Ends a run that is in progress, from another thread: set() makes it raise Stopped. One run at a time has it."""

    def __init__(self) -> None:
        self.options = _onnxruntime().RunOptions()
        self.options.log_severity_level = 4  # or it prints that a run was stopped as an error
        self.is_set = False

    def set(self) -> None:
        """End the run, or the one that is about to begin."""
        self.is_set = True
        self.options.terminate = True


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Session:
    """One graph, ready to run from any number of threads."""

    def __init__(self, graph: Path, threads: int | None = None, provider: Provider = "cpu", require_gpu: bool = False):
        """threads: of one run, None for one per usable core. require_gpu: fail rather than fall back to the CPU."""
        one_of("provider", provider, tuple(PROVIDERS))
        threads = usable_cores() if threads is None else threads
        at_least("threads", threads, 1)
        if require_gpu and provider == "cpu":
            raise ValueError("require_gpu needs the provider cuda, got cpu")
        engine = _onnxruntime()
        options = engine.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A step of the search is some 70 small operators: sleeping between them costs a tenth of its time, spinning for
        # long (the default) takes the cores from the other graph's threads and doubles it.
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        wanted = [name for name in (PROVIDERS[provider], PROVIDERS["cpu"]) if name in engine.get_available_providers()]
        try:
            self._session = engine.InferenceSession(str(graph), options, providers=list(dict.fromkeys(wanted)))
        except Exception as e:  # onnxruntime has a dozen classes for it
            raise EngineError(f"onnxruntime cannot open {graph}: {e}") from e
        used = self._session.get_providers()[0]
        self.provider: Provider = "cuda" if used == PROVIDERS["cuda"] else "cpu"
        """What really runs it: onnxruntime falls back to the CPU by itself."""
        if require_gpu and self.provider != "cuda":
            raise EngineError(f"a GPU is required, but onnxruntime runs {graph.name} with {used}")

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        """The named outputs of one run; raises Stopped where `stop` ended it."""
        try:
            found: list[NDArray[Any]] = self._session.run(list(outputs), dict(inputs), stop and stop.options)
        except Exception as e:  # onnxruntime has a dozen classes for it
            if stop is not None and stop.is_set:
                raise Stopped("the run was stopped") from e
            raise
        return [np.asarray(x) for x in found]


def engine_name() -> str:
    """The engine and its version, for people."""
    return f"onnxruntime {_onnxruntime().__version__}"


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as e:
        raise EngineError(
            "no onnxruntime is installed: install captioner[cpu] or captioner[gpu], one of the two"
        ) from e
    return onnxruntime  # type: ignore[no-any-return]
