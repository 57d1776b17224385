"""Models by name and version, and their exchange while calls are in flight."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from captioner import Bundle, Captioner, sharing
from captioner.bundle import seal
from services.engine import Outcome
from services.errors import UnknownModelError
from services.models import LoadError, Models
from services.settings import EngineSettings
from tests.running_server import Held, jpeg

SETTINGS = EngineSettings(max_batch=2, precision="fp32", threads=1)


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that may be changed."""
    return shutil.copytree(tiny_bundle, tmp_path / "first")


def another(folder: Path, name: str, scores: str = "{}") -> Path:
    """A copy beside it under that name; other scores make another version."""
    copy = shutil.copytree(folder, folder.parent / f"{name}{len(list(folder.parent.iterdir()))}")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "name": name}))
    change(copy, scores)
    return copy


def change(folder: Path, scores: str) -> None:
    """Make another version of it."""
    (folder / "scores.json").write_text(scores)
    seal(folder)


def version(folder: Path) -> str:
    return Bundle.open(folder).version


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; no thread may be left behind."""
    before = threading.active_count()
    asyncio.run(work())
    give_up = time.monotonic() + 10  # those that load are low in priority and end when they get their turn
    while threading.active_count() > before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert threading.active_count() == before, threading.enumerate()


def test_found_by_name_and_by_version(folder: Path) -> None:
    old, new, other = another(folder, "b"), another(folder, "b", '{"x": 1}'), another(folder, "a")

    async def work() -> None:
        models = Models([folder, old, new, other], SETTINGS)
        with pytest.raises(UnknownModelError, match="none yet"):
            models.find("")
        await models.load_all()
        try:
            expected = {"": folder, "tiny": folder, "b": new, "a": other, f"b@{version(old)}": old}
            for name, where in expected.items():
                assert models.find(name).captioner.bundle.folder == where
            for name in ("c", "b@", f"a@{version(old)}", "@", "B", "x" * 100_000):
                with pytest.raises(UnknownModelError, match="no model") as caught:
                    models.find(name)
                assert len(str(caught.value)) < 300
            listed = [engine.captioner.bundle.folder for engine in models.engines]
            assert listed[:2] == [folder, other]
            assert sorted(listed[2:], key=version) == listed[2:]
        finally:
            await models.close()

    run(work)


def test_a_zip_is_a_bundle_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed = sharing.save(folder, tmp_path / "packed.zip")

    async def work() -> None:
        models = Models([packed], SETTINGS)
        await models.load_all()
        try:
            assert models.find("").captioner.bundle.version == version(folder)
        finally:
            await models.close()

    run(work)


def test_no_folders() -> None:
    with pytest.raises(ValueError, match="at least 1 bundle"):
        Models([], SETTINGS)


def test_one_model_given_twice(folder: Path) -> None:
    copy = shutil.copytree(folder, folder.parent / "copy")

    async def work() -> None:
        models = Models([folder, copy], SETTINGS)
        with pytest.raises(LoadError, match=r"model tiny@\w{12} is given twice"):
            await models.load_all()
        assert models.engines == []

    run(work)


class Nonsense(Held):
    def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
        return super().encode(pixels_BHW3, stop) * float("nan")


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def changed_after_sealing(folder: Path) -> None:
    with (folder / "encoder.onnx").open("ab") as f:
        f.write(b"x")


def corrupt_graph(folder: Path) -> None:
    (folder / "captioner.onnx").write_bytes(b"no graph")
    seal(folder)


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def odd_settings(folder: Path) -> None:
    (folder / "config.json").write_text('{"format_version": 1}')
    seal(folder)


def answers_nonsense(folder: Path) -> None:
    change(folder, '{"nonsense": true}')


def load(bundle: Bundle) -> Captioner:
    captioner = Captioner.load(bundle, "fp32", threads=1)
    return Nonsense(captioner) if "nonsense" in bundle.scores else captioner  # type: ignore[return-value]


FAULTS = [gone, changed_after_sealing, corrupt_graph, no_manifest, odd_settings, answers_nonsense]


@pytest.mark.parametrize("harm", FAULTS)
def test_a_fault_at_the_start_is_one_sentence_that_names_the_folder(folder: Path, harm: Callable[[Path], None]) -> None:
    good = another(folder, "good")
    harm(folder)

    async def work() -> None:
        models = Models([good, folder], SETTINGS, load=load)
        with pytest.raises(LoadError) as caught:
            await models.load_all()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert models.engines == []
        await models.close()

    run(work)


@pytest.mark.parametrize("harm", FAULTS)
def test_a_fault_at_a_reload_keeps_all_that_serves(folder: Path, harm: Callable[[Path], None]) -> None:
    good = another(folder, "good")

    async def work() -> None:
        models = Models([good, folder], SETTINGS, load=load)
        await models.load_all()
        before = models.engines
        change(good, '{"x": 1}')  # good, but not exchanged without the other
        harm(folder)
        error = await models.reload()
        assert isinstance(error, LoadError)
        assert str(folder) in str(error)
        assert models.engines == before
        for name in ("good", "tiny"):
            with models.use(name) as engine:
                assert (await engine.caption(jpeg(), engine.captioner.options())).captions
        await models.close()

    run(work)


def test_a_reload_exchanges_what_changed_and_keeps_the_rest(folder: Path) -> None:
    other = another(folder, "other")

    async def work() -> None:
        models = Models([folder, other], SETTINGS)
        await models.load_all()
        first, second = models.find("tiny"), models.find("other")
        change(folder, '{"x": 1}')
        assert await models.reload() is None
        assert models.find("tiny") is not first
        assert models.find("tiny").captioner.bundle.version == version(folder)
        assert models.find("other") is second
        assert await models.reload() is None  # nothing changed
        await models.close()
        with pytest.raises(RuntimeError, match="closed"), first.held():
            pass

    run(work)


def test_calls_in_flight_finish_on_the_old_model_which_then_closes(folder: Path) -> None:
    held: list[Held] = []

    def hold(bundle: Bundle) -> Any:
        held.append(Held(Captioner.load(bundle, "fp32", threads=1)))
        return held[-1]

    async def work() -> None:
        models = Models([folder], SETTINGS, load=hold)
        await models.load_all()
        old = models.find("")
        held[0].hold()

        async def call() -> Outcome:
            with models.use("") as engine:
                return await engine.caption(jpeg(), engine.captioner.options())

        waiting = [asyncio.create_task(call()) for _ in range(3)]
        while not held[0].entered.is_set():
            await asyncio.sleep(0.001)
        change(folder, '{"x": 1}')
        assert await models.reload() is None
        assert models.find("") is not old
        assert (await call()).captions  # by the new one, while the old one stands still
        assert not any(task.done() for task in waiting)
        with old.held():
            held[0].let_go()
            assert all(outcome.captions for outcome in await asyncio.gather(*waiting))
            await asyncio.sleep(0.05)
            assert not old._closed
        await models.close()
        assert old._closed

    run(work)


def test_reloads_under_load_lose_no_call(folder: Path) -> None:
    async def work() -> None:
        models = Models([folder], SETTINGS)
        await models.load_all()
        seen, done = set(), False

        async def caller(n: int) -> None:
            while not done:
                with models.use("tiny") as engine:
                    seen.add(engine.captioner.bundle.version)
                    outcome = await engine.caption(jpeg(shade=n), engine.captioner.options())
                    assert outcome.captions

        callers = [asyncio.create_task(caller(n)) for n in range(2)]
        for n in range(3):
            change(folder, f'{{"x": {n}}}')
            both = await asyncio.gather(models.reload(), models.reload())  # the second waits for the first
            assert both == [None, None]
            while models.find("").captioner.bundle.version not in seen:
                await asyncio.sleep(0.001)
        done = True
        await asyncio.gather(*callers)
        assert len(seen) == 4
        await models.close()

    run(work)


def test_cancelled_while_it_loads_nothing_is_left(folder: Path) -> None:
    entered = threading.Event()

    class Slow(Held):
        def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
            entered.set()
            return super().encode(pixels_BHW3, stop)

    async def work() -> None:
        models = Models([folder], SETTINGS, load=lambda bundle: Slow(Captioner.load(bundle, "fp32", 1)))  # type: ignore[arg-type,return-value]
        loading = asyncio.create_task(models.load_all())
        while not entered.is_set():
            await asyncio.sleep(0.001)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert models.engines == []
        await models.close()

    run(work)
