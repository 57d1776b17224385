"""`python -m eval captions --ray local`: the same file as without Ray, whatever is wrong with the pictures."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from captioner.captioner import Captioner
from eval import on_ray
from eval.__main__ import main
from eval.captions import caption_batches
from eval.coco import load_split
from eval.journal import Journal
from tests.test_eval import make_split

# Not importorskip: Ray must be told where to listen before it is imported.
pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: the extra `cluster` brings it")

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from eval.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def split(tmp_path):
    annotations, photos = make_split(tmp_path, 11)
    (photos / "3.png").unlink()
    (photos / "4.png").write_bytes(b"not a picture")
    for n in (8, 9):  # a whole batch
        (photos / f"{n}.png").write_bytes(b"")
    return annotations, photos


def flags(bundle, split, out, *more):
    annotations, photos = split
    places = ["--bundle", bundle, "--annotations", annotations, "--pictures", photos, "--out", out]
    return ["captions", *map(str, places), "--threads", "1", "--batch-size", "2", "--beam-size", "2", "7", *more]


def test_the_same_files_as_without_ray_also_after_a_kill(tiny_bundle, split, tmp_path):
    assert main(flags(tiny_bundle, split, tmp_path / "plain", "--workers", "0")) == 0
    out = tmp_path / "ray"
    assert main(flags(tiny_bundle, split, out, "--ray", "local")) == 0
    assert not sys.modules["ray"].is_initialized()
    names = ("captions.k2.json", "captions.k7.json", "errors.json", "scores.json")
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert [error["image_id"] for error in json.loads((out / "errors.json").read_text())] == [103, 104, 108, 109]
    assert json.loads((out / "throughput.json").read_text())["pictures"] == 11

    # Killed while it wrote its third line, it goes on with what is not in the journal, on Ray or off.
    journal = out / "journal.jsonl"
    first, second, third, *_ = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + second + third[:20])
    for name in names:
        (out / name).unlink()
    assert main(flags(tiny_bundle, split, out, "--ray", "local")) == 0
    assert journal.read_bytes().startswith(first + second)
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


def test_a_local_cluster_has_four_cpus_and_hears_only_this_machine():
    with on_ray._cluster("local") as cluster:
        assert cluster.cluster_resources()["CPU"] == 4
        assert [node["NodeManagerAddress"] for node in cluster.nodes()] == ["127.0.0.1"]
    assert not cluster.is_initialized()


def test_what_fails_on_ray_is_one_error_and_ray_is_gone(tiny_bundle, split, tmp_path):
    captioner = Captioner.load(tiny_bundle, threads=1)
    captioner.bundle = replace(captioner.bundle, folder=tmp_path / "not on this machine")
    batches, searches = [load_split(*split).pictures[:2]], [captioner.options()]
    with Journal(tmp_path / "out", {}) as journal:
        with pytest.raises(ChildProcessError, match=r"the job on Ray failed: .*not on this machine"):
            on_ray.caption_batches(captioner, batches, searches, journal, "local", 1)
        with pytest.raises(ValueError, match="must have at least 9 CPUs, it has 4"):
            on_ray.caption_batches(captioner, batches, searches, journal, "local", 8)
        assert not sys.modules["ray"].is_initialized()
        assert caption_batches(captioner, batches, searches, journal, 0)["pictures"] == 2
        assert on_ray.caption_batches(captioner, batches, searches, journal, "local")["pictures"] == 0


def test_no_cluster_there_is_one_sentence(tiny_bundle, split, tmp_path, capsys):
    assert main(flags(tiny_bundle, split, tmp_path / "out", "--ray", "127.0.0.1:9")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no Ray at 127.0.0.1:9")


def test_without_ray_the_extra_is_named(tiny_bundle, split, tmp_path):
    command = [sys.executable, "-c", WITHOUT_RAY, *flags(tiny_bundle, split, tmp_path / "out", "--ray", "local")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: --ray needs Ray: install captioner[cluster]" in done.stderr
