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
    """Eleven pictures, four of them bad, and no captions: the scores would be the same if the captions are."""
    annotations, photos = make_split(tmp_path, 11)
    annotations.write_text(json.dumps({"images": json.loads(annotations.read_text())["images"]}))
    (photos / "3.png").unlink()
    (photos / "4.png").write_bytes(b"not a picture")
    for n in (8, 9):  # a whole batch
        (photos / f"{n}.png").write_bytes(b"")
    return annotations, photos


def flags(bundle, split, out, *more):
    annotations, photos = split
    places = ["--bundle", bundle, "--annotations", annotations, "--pictures", photos, "--out", out]
    return ["captions", *map(str, places), "--threads", "1", "--batch-size", "2", "--beam-size", "2", "7", *more]


def test_the_same_files_as_without_ray_and_a_killed_run_goes_on(tiny_bundle, split, tmp_path):
    plain, out = tmp_path / "plain", tmp_path / "ray"
    assert main(flags(tiny_bundle, split, plain, "--workers", "0")) == 0
    # As if killed while it wrote its second line: five of six batches are left to do.
    out.mkdir()
    first, second, *_ = (plain / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(first + second[:20])
    (out / "settings.json").write_bytes((plain / "settings.json").read_bytes())
    assert main(flags(tiny_bundle, split, out, "--ray", "local")) == 0
    assert not sys.modules["ray"].is_initialized()
    for name in ("captions.k2.json", "captions.k7.json", "errors.json"):
        assert (out / name).read_bytes() == (plain / name).read_bytes(), name
    assert [error["image_id"] for error in json.loads((out / "errors.json").read_text())] == [103, 104, 108, 109]
    assert json.loads((out / "throughput.json").read_text())["pictures"] == 9
    assert (out / "journal.jsonl").read_bytes().startswith(first)


def test_a_local_cluster_has_four_cpus_and_hears_only_this_machine(tiny_bundle):
    with on_ray._cluster("local") as ray:
        assert ray.cluster_resources()["CPU"] == 4
        assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
        captioner = Captioner.load(tiny_bundle, threads=1)
        with pytest.raises(ValueError, match="must have at least 9 CPUs, it has 4"):
            next(on_ray._job(ray, [], captioner, [], 8))
    assert not ray.is_initialized()


def test_what_fails_on_ray_is_one_error_and_ray_is_gone(tiny_bundle, split, tmp_path):
    captioner = Captioner.load(tiny_bundle, threads=1)
    captioner.bundle = replace(captioner.bundle, folder=tmp_path / "not on this machine")
    batches, searches = [load_split(*split).pictures[:2]], [captioner.options()]
    with Journal(tmp_path / "out", {}) as journal:
        with pytest.raises(ChildProcessError, match=r"the job on Ray failed: .*not on this machine"):
            on_ray.caption_batches(captioner, batches, searches, journal, "local", 1)
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
