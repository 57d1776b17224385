"""Which bundle is meant where none is given: $CAPTIONER_BUNDLE, else the box; the same everywhere."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captioner.bundle
import eval.__main__
import eval.throughput
import services.__main__
import services.cluster
from captioner import Bundle, BundleError, Captioner, sharing
from captioner.bundle import BOX, default_bundle
from captioner.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_variable(monkeypatch) -> None:
    monkeypatch.delenv("CAPTIONER_BUNDLE", raising=False)


@pytest.fixture
def box(tiny_bundle_answers, monkeypatch) -> Path:
    """The tiny bundle as the box."""
    monkeypatch.setattr(captioner.bundle, "BOX", tiny_bundle_answers)
    return tiny_bundle_answers


@pytest.fixture
def no_box(tmp_path, monkeypatch) -> Path:
    """A checkout that came without the box."""
    monkeypatch.setattr(captioner.bundle, "BOX", tmp_path / "no-box")
    return tmp_path / "no-box"


@pytest.fixture
def data(tmp_path) -> Path:
    """A picture with a caption, a box, and a question."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 64, "height": 64}
    captions = [{"id": n, "image_id": 1, "caption": text} for n, text in enumerate(["a red dog", "the dog runs"])]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]
    documents = {
        "captions": {"images": [image], "annotations": captions},
        "training": {"images": [image], "annotations": captions},
        "instances": {"images": [image], "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]},
        "questions": {"questions": [{"question_id": 1, "image_id": 1, "question": "is it red?"}]},
    }
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def test_it_is_the_box_or_the_variable_s(box, tiny_bundle, monkeypatch):
    assert default_bundle() == box
    assert Captioner.load(threads=1).bundle.folder == box
    assert sharing.load().folder == box
    monkeypatch.setenv("CAPTIONER_BUNDLE", str(tiny_bundle))
    assert default_bundle() == tiny_bundle
    assert Captioner.load(threads=1).bundle.folder == tiny_bundle
    monkeypatch.setenv("CAPTIONER_BUNDLE", "")
    assert default_bundle() == box


def test_the_variable_may_name_a_zip(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONER_BUNDLE", str(sharing.save(tiny_bundle, tmp_path / "tiny.zip")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Captioner.load(threads=1).bundle.version == Bundle.open(tiny_bundle).version


def test_without_a_box_it_says_what_to_give(no_box, monkeypatch):
    for load in (Captioner.load, sharing.load):
        with pytest.raises(BundleError, match=r"give one \(--bundle\) or set CAPTIONER_BUNDLE") as e:
            load()
        assert str(no_box) in str(e.value)
    monkeypatch.setenv("CAPTIONER_BUNDLE", "nowhere")
    with pytest.raises(BundleError, match="no bundle at nowhere"):
        Captioner.load()


def commands(data: Path) -> dict[str, list[str]]:
    photo = str(data / "1.png")
    return {
        "caption": ["caption", photo],
        "answer": ["answer", photo, "--question", "is it red?"],
        "info": ["info"],
        "save": ["save", str(data / "saved.zip")],
    }


@pytest.mark.parametrize("name", ["caption", "answer", "info", "save"])
def test_the_command_line(name, box, data, capsys):
    assert main(commands(data)[name]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ["caption", "answer", "info", "save"])
def test_the_command_line_without_a_box(name, no_box, data, monkeypatch, capsys):
    (data / "bundles" / "default").mkdir(parents=True)  # once the usual place
    monkeypatch.chdir(data)
    assert main(commands(data)[name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("captioner: no bundle: give one (--bundle) or set CAPTIONER_BUNDLE")
    assert err.count("\n") == 1


def evaluations(data: Path) -> dict[str, list[str]]:
    files = {name: str(data / f"{name}.json") for name in ("captions", "training", "instances", "questions")}
    pictures = ["--pictures", str(data)]
    split = ["--annotations", files["captions"], *pictures]
    return {
        "captions": [*split, "--out", str(data / "out"), "--workers", "0", "--no-java"],
        "answers": ["--questions", files["questions"], *pictures, "--naming", "{image_id}.png", "--workers", "0"],
        "neighbours": [*split, "--training-annotations", files["training"], "--out", str(data / "out.json")],
        "pointing": ["--instances", files["instances"], *pictures],
        "speed": ["--question", "is it red?", "--repeats", "1", "--threads", "1"],
        "throughput": [*split, "--rounds", "1", "--workers", "0"],
    }


def evaluate(name: str, data: Path) -> int:
    arguments = evaluations(data)[name]
    return eval.throughput.main(arguments) if name == "throughput" else eval.__main__.main([name, *arguments])


@pytest.mark.parametrize("name", sorted(evaluations(Path())))
def test_evaluation(name, box, data, capsys):
    assert evaluate(name, data) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(evaluations(Path())))
def test_evaluation_without_a_box(name, no_box, data, capsys):
    assert evaluate(name, data) == 1
    assert capsys.readouterr().err.startswith("error: no bundle: give one (--bundle) or set CAPTIONER_BUNDLE")


@pytest.fixture
def served(monkeypatch) -> list[list[Path]]:
    """What either server was asked to serve; neither starts."""
    found: list[list[Path]] = []

    async def serve(bundles: list[Path], *_) -> None:
        found.append(bundles)

    @contextmanager
    def running(bundles: list[Path], *_) -> Iterator[None]:
        found.append(bundles)
        raise ConnectionError("not started")
        yield

    monkeypatch.setattr(services.__main__, "_serve", serve)
    monkeypatch.setattr(services.cluster, "running", running)
    return found


def test_the_servers(served, box, tiny_bundle, monkeypatch):
    for set_variable, expected in ((False, box), (True, tiny_bundle)):
        if set_variable:
            monkeypatch.setenv("CAPTIONER_BUNDLE", str(tiny_bundle))
        services.__main__.main(["--log", "text"])
        with pytest.raises(SystemExit, match="not started"):
            services.cluster.main(["--log", "text"])
        assert served[-2:] == [[expected], [expected]]
    services.__main__.main(["--log", "text", "--bundle", "a", "--bundle", "b"])
    assert served[-1] == [Path("a"), Path("b")]


@pytest.mark.parametrize("module", ["services.__main__", "services.cluster"])
def test_the_servers_without_a_box(module, served, no_box):
    with pytest.raises(SystemExit, match="error: no bundle: give one"):
        importlib.import_module(module).main(["--log", "text"])
    assert served == []


def test_the_box_opens():
    if not BOX.exists():
        pytest.skip("the box is not in this checkout")
    bundle = Bundle.open(BOX)
    assert (BOX / "README.md").is_file()
    assert bundle.model.captions
    assert bundle.model.answerer is not None
