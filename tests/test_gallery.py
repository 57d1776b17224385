"""`python -m eval gallery`: the photos that ship and their licences, what is asked and judged, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from captioner.results import Answer, Answered
from eval import gallery
from eval.__main__ import main

SHIPPED = gallery.load_photos(gallery.PHOTOS)
FREE = {"public domain", "CC0"}


def sources() -> dict[str, str]:
    """Licences by file, as SOURCES.md has them."""
    rows = re.findall(r"^\| `(\S+)` \|(.*)\|$", (gallery.PHOTOS / "SOURCES.md").read_text(), flags=re.M)
    return {file: rest.split("|")[2].strip() for file, rest in rows}


def test_every_photo_has_a_source_and_a_licence_that_lets_it_ship():
    files = {path.name for path in gallery.PHOTOS.iterdir() if path.suffix == ".jpg"}
    assert len(files) >= 10
    assert files == set(sources()) == {photo.path.name for photo in SHIPPED}
    assert set(sources().values()) == FREE


def test_photos_are_small_enough_to_ship():
    assert sum(path.stat().st_size for path in gallery.PHOTOS.iterdir()) < 1.2e6
    for photo in SHIPPED:
        with Image.open(photo.path) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) <= 640
            assert not picture.getexif()  # no places, cameras or names of people


def test_every_shipped_photo_is_asked_something_that_can_be_answered():
    for photo in SHIPPED:
        assert photo.questions
        assert all(asked.accept for asked in photo.questions)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three small photos, two of them in photos.json."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, name in enumerate(("red_one", "green", "left out")):
        colour = np.zeros((48, 64, 3), np.uint8)
        colour[..., n] = 200
        Image.fromarray(colour).save(folder / f"{name}.jpg")
    entries = [
        {"file": "red_one.jpg", "judged": {}, "questions": [{"question": "what is the colour?", "accept": ["Red"]}]},
        {"file": "green.jpg", "judged": {"never said": "right"}, "questions": []},
    ]
    (folder / "photos.json").write_text(json.dumps({"photos": entries}))
    return folder


def judge(folder: Path, file: str, caption: str, judgement: str) -> None:
    """Add what a person thinks."""
    path = folder / "photos.json"
    document = json.loads(path.read_text())
    (entry,) = [entry for entry in document["photos"] if entry["file"] == file]
    entry["judged"][caption] = judgement
    path.write_text(json.dumps(document))


def test_page_and_pictures(tiny_bundle_answers, photos, tmp_path, capsys):
    flags = ["gallery", "--bundle", str(tiny_bundle_answers), "--photos", str(photos), "--threads", "1", "--out"]
    assert main([*flags, str(tmp_path / "first")]) == 0
    printed = capsys.readouterr().out
    assert "2 captions: 2 not judged." in printed
    said = dict(re.findall(r"^(red_one|green): (.*) \(not judged\)$", printed, flags=re.M))
    page = (tmp_path / "first/gallery.md").read_text()
    for name, caption in said.items():
        assert f"<b>{caption}</b>" in page
        assert {f"{name}.jpg", f"{name}-looked.jpg"} <= set(re.findall(r'src="([^"]+)"', page))
    assert "what is the colour?" in page
    wanted = set(re.findall(r'src="([^"]+)"', page)) | {"gallery.md"}
    assert {path.name for path in (tmp_path / "first").iterdir()} == wanted

    judge(photos, "red_one.jpg", said["red_one"], "wrong")
    judge(photos, "green.jpg", said["green"], "right")
    (photos / "SOURCES.md").write_text("# From here\n\nMine.\n")
    assert main([*flags, str(tmp_path / "second")]) == 0
    assert "2 captions: 1 right, 1 wrong." in capsys.readouterr().out
    page = (tmp_path / "second/gallery.md").read_text()
    assert page.index("green.jpg") < page.index("red_one.jpg")  # successes on the left
    assert page.endswith("## From here\n\nMine.\n")


def test_without_attention_or_questions_there_is_less(tiny_bundle_inject, photos, tmp_path):
    flags = ["gallery", "--bundle", str(tiny_bundle_inject), "--threads", "1", "--out", str(tmp_path / "out")]
    assert main([*flags, "--photos", str(photos)]) == 0
    page = (tmp_path / "out/gallery.md").read_text()
    assert "looked" not in page
    assert "what is the colour?" not in page


def test_a_folder_without_a_list_is_shown_whole(tiny_bundle, photos, tmp_path):
    (photos / "photos.json").unlink()
    assert [photo.path.name for photo in gallery.load_photos(photos)] == ["green.jpg", "left out.jpg", "red_one.jpg"]


def answered(text: str) -> Answered:
    return Answered((Answer(text, 0.5), Answer("red", 0.4)), None)


def test_only_the_first_answer_counts():
    asked = gallery.Asked("?", ("red", "Dark red"))
    assert gallery.accepted(asked, answered("red"))
    assert gallery.accepted(asked, answered("dark red"))
    assert not gallery.accepted(asked, answered("blue"))


def test_successes_stand_beside_failures_and_the_rest_two_by_two():
    shown = [SimpleNamespace(name=n, judgement=j) for n, j in enumerate(
        ["not judged", "partly", "right", "wrong", "right", "right", "not judged"])]  # fmt: skip
    pairs = [tuple(one and one.name for one in pair) for pair in gallery.side_by_side(shown)]
    assert pairs == [(2, 3), (4, 1), (5, 0), (6, None)]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "photos is missing"),
        ({"photos": [{"file": "a.jpg", "judged": {}}]}, "photos[0].questions is missing"),
        ({"photos": [{"file": "a.jpg", "judged": {"x": "fine"}, "questions": []}]}, "must be one of right, partly"),
        ({"photos": [{"file": "a.jpg", "judged": {}, "questions": [{"question": "?", "accept": [1]}]}]}, "accept[0]"),
        ({"photos": [{"file": f"a.{kind}", "judged": {}, "questions": []} for kind in ("jpg", "png")]}, "a is there"),
    ],
)
def test_mistakes_in_the_list_are_named(tmp_path, document, sentence):
    (tmp_path / "photos.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        gallery.load_photos(tmp_path)


def test_what_is_not_a_photo_is_named(tiny_bundle, tmp_path, capsys):
    flags = ["gallery", "--bundle", str(tiny_bundle), "--threads", "1", "--out", str(tmp_path / "out"), "--photos"]
    assert main([*flags, str(tmp_path / "none")]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    assert main([*flags, str(tmp_path / "broken")]) == 1
    assert "holds no photo" in capsys.readouterr().err
    (tmp_path / "broken/a.jpg").write_bytes(b"not a photo")
    assert main([*flags, str(tmp_path / "broken")]) == 1
    assert "a.jpg" in capsys.readouterr().err
