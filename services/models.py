"""The models that are served, by name and version, and how they are exchanged while they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path

from captioner import Bundle, Captioner, sharing
from services.engine import Engine, WarmUpError
from services.errors import UnknownModelError
from services.observer import Observer
from services.priority import step_back
from services.settings import EngineSettings

LONGEST_NAME = 64
"""Characters of an unknown name that a message repeats."""


class LoadError(RuntimeError):
    """A model cannot be served; the message is one sentence."""


class Models:
    """One engine for each folder: load_all() first, close() at the end. Belongs to one event loop."""

    def __init__(
        self,
        folders: Sequence[Path],
        settings: EngineSettings,
        observer: Observer | None = None,
        load: Callable[[Bundle], Captioner] | None = None,
    ):
        """folders: of the bundles; the first is the default, and of those of one name the last is the newest.

        load: makes a captioner of a bundle; None: as the settings say.
        """
        if not folders:
            raise ValueError("there must be at least 1 bundle, got 0")
        self.folders = tuple(folders)
        self.settings = settings
        self._observer = observer
        self._load = load or partial(_load, settings)
        self._served: tuple[Engine, ...] = ()  # one for each folder, in their order
        self._reloading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        # The threads that a session starts have the niceness of the one that makes it.
        self._loader = ThreadPoolExecutor(1, "load", initializer=step_back)

    @property
    def engines(self) -> list[Engine]:
        """The default one first, then by name and version; none before load_all()."""
        return [*self._served[:1], *sorted(self._served[1:], key=_identity)]

    async def load_all(self) -> None:
        """Open and warm up every model; LoadError if one cannot be served, and then none is."""
        self._served = await self._open()

    async def reload(self) -> LoadError | None:
        """Open and warm up anew the bundles whose files have changed, then serve all of them in the old ones' place.

        Calls in flight finish on the old engines, which close after their last one. Returns why nothing was exchanged,
        or None. Until the exchange an old model and its successor are both in memory.
        """
        async with self._reloading:
            old = self._served
            try:
                self._served = await self._open(old)
            except LoadError as error:
                return error
            for engine in set(old) - set(self._served):
                task = asyncio.create_task(engine.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            return None

    def find(self, name: str) -> Engine:
        """The model that is called "name" or "name@version", for "" the default; else UnknownModelError.

        It may close at the next await: see use().
        """
        if not name and self._served:
            return self._served[0]
        for engine in reversed(self._served):
            own, version = _identity(engine)
            if name in (own, f"{own}@{version}"):
                return engine
        known = ", ".join(f"{own}@{version}" for own, version in map(_identity, self.engines))
        raise UnknownModelError(f"no model {name[:LONGEST_NAME]!r} here, only {known or 'none yet'}")

    @contextmanager
    def use(self, name: str) -> Iterator[Engine]:
        """find(), and the model does not close until the block ends."""
        engine = self.find(name)
        with engine.held():
            yield engine

    async def close(self) -> None:
        """Close every engine, after its last call."""
        await asyncio.gather(*(engine.close() for engine in self._served), *self._closing)
        self._loader.shutdown(wait=False)

    async def _open(self, old: Sequence[Engine] = ()) -> tuple[Engine, ...]:
        """A warm engine for each folder, the old one where its bundle is unchanged; LoadError, and none is left."""
        engines: list[Engine] = []
        try:
            for folder, before in zip_longest(self.folders, old):
                captioner = await asyncio.get_running_loop().run_in_executor(
                    self._loader, self._captioner, folder, before
                )
                engine = before if captioner is None else Engine(captioner, self.settings, self._observer)
                engines.append(engine)
                if engine is not before:
                    await _warm(engine, folder)
            identities = [_identity(engine) for engine in engines]
            for name, version in identities:
                if identities.count((name, version)) > 1:
                    raise LoadError(f"model {name}@{version} is given twice")
        except BaseException:
            await asyncio.gather(*(engine.close() for engine in set(engines) - set(old)))
            raise
        return tuple(engines)

    def _captioner(self, folder: Path, before: Engine | None) -> Captioner | None:
        """A captioner of the bundle in a folder; None if the engine before runs that very bundle."""
        try:
            bundle = sharing.load(folder)
            if before is not None and before.captioner.bundle.version == bundle.version:
                return None
            return self._load(bundle)
        except Exception as error:  # BundleError and EngineError, but also whatever an odd file provokes
            raise _load_error(folder, error) from error


async def _warm(engine: Engine, folder: Path) -> None:
    try:
        await engine.warm_up()
    except WarmUpError as error:
        raise _load_error(folder, error) from error


def _load_error(folder: Path, error: Exception) -> LoadError:
    text = " ".join(str(error).split()) or type(error).__name__
    return LoadError(text if str(folder) in text else f"bundle {folder}: {text}")


def _load(settings: EngineSettings, bundle: Bundle) -> Captioner:
    memory, gpu = settings.memory_bytes, settings.require_gpu
    return Captioner.load(bundle, settings.precision, settings.threads, settings.provider, gpu, memory_bytes=memory)


def _identity(engine: Engine) -> tuple[str, str]:
    """Name and version."""
    bundle = engine.captioner.bundle
    return bundle.name, bundle.version
