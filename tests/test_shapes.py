"""The comparison of encoders' shapes."""

from __future__ import annotations

import csv
import json
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from captioner.model import compact
from training import shapes

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def write_run(folder, name, same_class):
    folder.mkdir()
    state = compact.build(name).state_dict()
    save_file(state, folder / "encoder.safetensors")
    (folder / "settings.json").write_text(json.dumps({"student": name, "size": 32}))
    lines = [{"epoch": n, "val_grid": 0.5, "val_kl": 1.5, "val_same_class": same_class * n / 2} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shapes", *map(str, arguments)])
    return shapes.main()


def test_a_table_and_a_plot_of_two_shapes(tmp_path, monkeypatch, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(photos / "a.png")
    runs = [write_run(tmp_path / name, name, share) for name, share in (("residual_16", 0.5), ("depthwise_16", 0.25))]
    assert run(monkeypatch, *runs, "--photos", photos, "--out", tmp_path / "out", "--repeats", 3) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "shapes.csv").open()))
    assert [(row["name"], row["size"], row["epochs"], row["val_same_class"]) for row in rows] == [
        ("residual_16", "32", "2", "0.5"),
        ("depthwise_16", "32", "2", "0.25"),
    ]
    parameters = sum(p.numel() for p in compact.build("residual_16").parameters())
    assert int(rows[0]["parameters"]) == parameters
    # A byte for each weight, and what else a graph has.
    assert all(0.9 < int(row["int8_bytes"]) / int(row["parameters"]) < 1.5 for row in rows)
    assert all(float(row["int8_ms"]) > 0 for row in rows)
    assert ElementTree.parse(tmp_path / "out" / "shapes.svg").getroot().tag.endswith("svg")
    assert "residual_16 32:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["settings.json", "metrics.jsonl", "encoder.safetensors"])
def test_an_unfinished_run_is_named(tmp_path, monkeypatch, capsys, name):
    folder = write_run(tmp_path / "run", "residual_16", 0.5)
    (folder / name).unlink()
    assert run(monkeypatch, folder, "--photos", tmp_path, "--out", tmp_path / "out") == 2
    assert f"{name} is missing" in capsys.readouterr().err
