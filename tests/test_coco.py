"""The one reader of captions, on both layouts."""

import json
from pathlib import Path

import pytest

from eval.coco import CocoPicture, load_split, present


def write(folder, document):
    path = folder / "captions.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def coco():
    return {
        "info": {},
        "images": [{"id": 9, "file_name": "b.jpg", "width": 4, "height": 3}, {"id": 4, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 4, "caption": "A cat."},
            {"id": 2, "image_id": 9, "caption": "A dog."},
            {"id": 3, "image_id": 4, "caption": "The cat"},
        ],
    }


def karpathy():
    def image(n, split, **more):
        sentences = [{"raw": f"Picture {n}."}, {"raw": f"No. {n}", "tokens": ["no", str(n)]}]
        return {"filename": f"{n}.jpg", "split": split, "imgid": n, "sentences": sentences, **more}

    images = [
        image(0, "val", filepath="val2014", cocoid=70),
        image(1, "restval", filepath="val2014", cocoid=71),
        image(2, "train", filepath="train2014", cocoid=72),
        image(3, "test"),
    ]
    return {"dataset": "coco", "images": images}


def test_coco_layout_keeps_file_order_and_prints_nothing(tmp_path, capsys):
    split = load_split(write(tmp_path, coco()), Path("pictures"))
    assert split.pictures == (
        CocoPicture(9, Path("pictures/b.jpg"), ("A dog.",)),
        CocoPicture(4, Path("pictures/a.jpg"), ("A cat.", "The cat")),
    )
    assert split.references == {9: ["A dog."], 4: ["A cat.", "The cat"]}
    assert split.annotations.name == "captions.json"
    assert capsys.readouterr().out == ""


def test_a_test_set_has_pictures_without_captions(tmp_path):
    document = coco()
    del document["annotations"]
    split = load_split(write(tmp_path, document), Path("p"))
    assert [picture.captions for picture in split.pictures] == [(), ()]
    assert split.references == {}


def test_karpathy_layout(tmp_path):
    path = write(tmp_path, karpathy())
    assert load_split(path, Path("p"), "val").pictures == (
        CocoPicture(70, Path("p/val2014/0.jpg"), ("Picture 0.", "No. 0")),
    )
    assert [p.image_id for p in load_split(path, Path("p"), "train+restval").pictures] == [71, 72]
    assert [p.path for p in load_split(path, Path("p"), "test").pictures] == [Path("p/3.jpg")]
    assert [p.image_id for p in load_split(path, Path("p")).pictures] == [70, 71, 72, 3]


def without(name):
    def change(record):
        del record[name]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without("images"), "images is missing"),
        (lambda d: d.update(images=[]), "images is empty"),
        (lambda d: d.update(images="none"), "images must be a list, got 'none'"),
        (lambda d: d.update(annotations={}), "annotations must be a list"),
        (lambda d: d["images"].append("x"), r"images\[2\] must be an object, got str"),
        (lambda d: d["images"][1].update(id="4"), r"images\[1\].id must be an integer, got '4'"),
        (lambda d: d["images"][1].update(id=True), r"images\[1\].id must be an integer, got True"),
        (lambda d: d["images"].append(d["images"][0]), "images has the id 9 twice"),
        (lambda d: without("file_name")(d["images"][0]), r"images\[0\].file_name is missing"),
        (lambda d: without("caption")(d["annotations"][2]), r"annotations\[2\].caption is missing"),
        (lambda d: d["annotations"][2].update(caption=None), r"annotations\[2\].caption must be a string, got None"),
        (lambda d: d["annotations"][1].update(image_id=5), r"annotations\[1\].image_id 5 is not among images"),
    ],
)
def test_mistakes_in_coco_layout_name_file_and_field(tmp_path, change, complaint):
    document = coco()
    change(document)
    with pytest.raises(ValueError, match=rf"captions\.json: {complaint}"):
        load_split(write(tmp_path, document), Path("p"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda i: i.update(split="dev"), r"images\[0\].split must be one of train, restval, val, test, got 'dev'"),
        (without("split"), r"images\[0\].split is missing"),
        (without("sentences"), r"images\[0\].sentences is missing"),
        (without("filename"), r"images\[0\].filename is missing"),
        (lambda i: i["sentences"].append({"tokens": []}), r"images\[0\].sentences\[2\].raw is missing"),
        (lambda i: i.update(cocoid=3), "images has the id 3 twice"),
    ],
)
def test_mistakes_in_karpathy_layout_name_file_and_field(tmp_path, change, complaint):
    document = karpathy()
    change(document["images"][0])
    with pytest.raises(ValueError, match=rf"captions\.json: {complaint}"):
        load_split(write(tmp_path, document), Path("p"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "not JSON"), ("[]", "the file must be an object, got list"), ("", "not JSON")],
)
def test_not_annotations_at_all(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=rf"captions\.json: {complaint}"):
        load_split(write(tmp_path, text), Path("p"))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: cannot be read: No such file"):
        load_split(tmp_path / "none.json", Path("p"))


def test_splits_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="no image has a split field, so split 'val' cannot be picked"):
        load_split(write(tmp_path, coco()), Path("p"), "val")
    with pytest.raises(ValueError, match="made of train, restval, val, test joined by \\+, got 'dev'"):
        load_split(write(tmp_path, karpathy()), Path("p"), "train+dev")
    document = karpathy()
    document["images"].pop()
    with pytest.raises(ValueError, match="no image has split 'test'"):
        load_split(write(tmp_path, document), Path("p"), "test")


def test_present_parts_pictures_by_their_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    split = load_split(write(tmp_path, coco()), tmp_path)
    kept, missing = present(split.pictures)
    assert [picture.image_id for picture in kept] == [4]
    assert [picture.image_id for picture in missing] == [9]


def test_real_files(shared):
    data = shared / "data"
    flickr = load_split(data / "flickr8k" / "captions_val.json", data / "flickr8k" / "val")
    assert (len(flickr.pictures), sum(len(p.captions) for p in flickr.pictures)) == (1000, 5000)
    assert present(flickr.pictures)[1] == []
    with pytest.raises(ValueError, match=r"instances_val2017\.json: annotations\[0\]\.caption is missing"):
        load_split(data / "coco_mini" / "annotations" / "instances_val2017.json", data)
