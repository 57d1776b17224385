"""A run that is stopped at any moment and continued ends as one that nobody touched, bit for bit."""

import logging
import multiprocessing
import os
import time

import pytest
import torch

from tests.tiny_training import leaves, metrics, run, tiny
from training import checkpoint, loop


def assert_same_run(out, other):
    assert (out / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    assert leaves(checkpoint.newest(out)) == leaves(checkpoint.newest(other))
    timed = {"seconds_since_start_or_resume"}
    ours, theirs = ([{k: v for k, v in line.items() if k not in timed} for line in metrics(o)] for o in (out, other))
    assert ours == theirs


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["every_step", "every_epoch"])
def test_a_run_stopped_twice_is_bit_for_bit_the_same(straight, tiny_data, tmp_path, monkeypatch, seconds):
    train_step = loop._Run._train_step
    for stop in (2, 7):

        def step(self, batch, stop=stop):
            if self.step == stop:
                raise KeyboardInterrupt
            return train_step(self, batch)

        monkeypatch.setattr(loop._Run, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), tiny_data, tmp_path, seconds)
    monkeypatch.setattr(loop._Run, "_train_step", train_step)
    run(tiny(), tiny_data, tmp_path, seconds)
    assert_same_run(tmp_path, straight[0])


@pytest.mark.parametrize(
    ("name", "time", "seconds"),
    [
        ("best.safetensors", 1, 0.0),
        ("metrics.jsonl", 1, 0.0),
        ("checkpoint-000000003.pt", 1, 0.0),
        ("checkpoint-000000006.pt", 2, 1e9),  # as the self-critical epochs begin
        ("metrics.jsonl", 3, 1e9),  # after one of them has written weights that are perhaps better
    ],
)
def test_a_run_stopped_while_it_writes_is_the_same(straight, tiny_data, tmp_path, monkeypatch, name, time, seconds):
    place, written = os.replace, []

    def stop(source, target):
        written.append(os.path.basename(target))
        if written.count(name) == time:
            raise KeyboardInterrupt
        place(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), tiny_data, tmp_path, seconds)
    monkeypatch.setattr(os, "replace", place)
    run(tiny(), tiny_data, tmp_path, seconds)
    assert_same_run(tmp_path, straight[0])


def test_two_kills_with_sigkill_change_nothing(straight, tiny_data, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.loop", "tests.tiny_training"])
    for step in (1, 7):
        process = context.Process(target=run, args=(tiny(), tiny_data, tmp_path))
        process.start()
        while process.is_alive() and not (tmp_path / f"checkpoint-{step:09d}.json").exists():
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -9
    run(tiny(), tiny_data, tmp_path)
    assert_same_run(tmp_path, straight[0])


def test_the_torn_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    assert checkpoint.newest(tmp_path) is None
    for step in (7, 8, 10):
        checkpoint.save(tmp_path, step, {"step": step, "weights": torch.full((1000,), float(step))})
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint-000000008.pt", "checkpoint-000000010.pt"]
    assert checkpoint.newest(tmp_path)["step"] == 10
    whole = (tmp_path / "checkpoint-000000010.pt").read_bytes()
    with caplog.at_level(logging.WARNING):
        for torn in (whole[:-1], b"", whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
            (tmp_path / "checkpoint-000000010.pt").write_bytes(torn)
            assert checkpoint.newest(tmp_path)["step"] == 8
    assert "checkpoint-000000010.pt is not whole and is left out" in caplog.text
    (tmp_path / "checkpoint-000000010.pt").write_bytes(whole)
    (tmp_path / "checkpoint-000000010.json").unlink()  # killed between the two files
    assert checkpoint.newest(tmp_path)["step"] == 8
    (tmp_path / ".checkpoint-000000009.pt.123").write_bytes(b"half")
    checkpoint.save(tmp_path, 9, {"step": 9})
    assert checkpoint.newest(tmp_path)["step"] == 9
    assert not list(tmp_path.glob(".*"))
