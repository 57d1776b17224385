"""All scores beside coco-caption's own code with its Java tokeniser, on real captions and on nasty ones."""

import json
import shutil
from pathlib import Path

import pytest

from eval import official
from eval.__main__ import main
from eval.coco import load_split
from tests.nasty import nasty_captions

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _java():
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    if not shutil.which("java"):
        pytest.skip("there is no java")


def compare(given):
    ours, theirs = official.score_ours(given), official.score_officially(given)
    assert ours["tokens"] == theirs["tokens"]
    for name, value in theirs["metrics"].items():
        assert ours["metrics"][name] == pytest.approx(value, abs=1e-9), name
        assert ours["each"][name] == pytest.approx(theirs["each"][name], abs=1e-9), name
    assert ours["metrics"]["CIDEr_D"] == ours["metrics"]["CIDEr"]


def test_nasty_captions():
    captions = nasty_captions(2000, seed=21)
    compare(
        [{"image_id": n, "caption": captions[5 * n], "references": captions[5 * n + 1 : 5 * n + 5]} for n in range(400)]
    )


@pytest.mark.parametrize("annotations", ["coco_mini/annotations/captions_val2017.json", "flickr8k/captions_val.json"])
def test_people_against_people(annotations):
    path = SHARED / annotations
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    references = load_split(path, Path()).references
    compare([{"image_id": n, "caption": own[0], "references": own[1:]} for n, own in references.items()])


def test_the_command_prints_digits_and_times(tmp_path, capsys):
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "annotations": [{"id": n, "image_id": n, "caption": c} for n, c in ((1, "A dog."), (2, "A dog runs."))],
    }
    (tmp_path / "captions.json").write_text(json.dumps(document))
    assert main(["official", "--annotations", str(tmp_path / "captions.json"), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2 pictures, 2 references; captions with other tokens: 0" in printed
    assert "times as long" in printed
