"""CHAIR-style hallucination on captions that a person can check, and on COCO's own captions."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from captioner.tokens import tokenize
from eval.metrics.hallucination import SYNONYMS, chair, load_objects, mentions, object_phrases

COCO = object_phrases(SYNONYMS)  # it has all 80
MINI = Path(__file__).parent.parent.parent / "shared/data/coco_mini/annotations"


def named(caption, phrases=COCO):
    """Categories that a caption names, alternatives with a bar between them."""
    return ["|".join(sorted(meant)) for _, meant in mentions(tokenize(caption), phrases)]


@pytest.mark.parametrize(
    ("caption", "categories"),
    [
        ("Two women and a boy walk their puppies.", ["person", "person", "dog"]),
        ("a hot dog on a plate", ["hot dog|sandwich"]),
        ("two hot dogs and a dog", ["hot dog|sandwich", "dog"]),
        ("a teddy bear beside a polar bear", ["teddy bear", "bear"]),
        ("a boy swings a baseball bat at a tennis ball", ["person", "baseball bat", "sports ball"]),
        ("knives, wine glasses, mice and scissors", ["knife", "wine glass", "mouse", "scissors"]),
        ("a baby elephant and a baby", ["elephant", "person"]),
        ("a passenger train at a train station", ["train"]),
        ("a bus stops at the bus stop", ["bus"]),
        ("a horse stands on the train tracks", ["horse"]),
        ("a roll of toilet paper", []),
        ("an orange cat eats an orange", ["cat", "orange"]),
        ("oranges in a bowl, a half orange on the table", ["orange", "bowl", "orange", "dining table"]),
        ("a man on a bike", ["person", "bicycle|motorcycle"]),
        ("a sheep near sheep", ["sheep", "sheep"]),
        ("a man's cell phone", ["person", "cell phone"]),
        ("nothing here", []),
        ("", []),
    ],
)
def test_what_a_caption_names(caption, categories):
    assert named(caption) == categories


def test_every_category_is_named_by_its_own_name():
    assert len(SYNONYMS) == 80
    for category in SYNONYMS:
        assert any(category in meant for _, meant in mentions(tokenize(f"the {category}"), COCO)), category


def test_categories_of_other_files_go_by_their_names():
    phrases = object_phrases(["Red circle", "blue square", "square"])
    assert named("a red circle over two blue squares and a square", phrases) == ["Red circle", "blue square", "square"]
    assert named("a red square and a dog", phrases) == ["square"]
    assert mentions(["dog"], {}) == []


def test_chair_by_hand():
    captions = {1: "a dog and a cat on a couch", 2: "a man with a frisbee", 3: "a man and a man", 4: "a street"}
    categories = {1: ["dog"], 2: ["person"], 3: ["person"], 4: [], 9: ["cat"]}
    references = {1: ["a dog lies on the sofa"], 2: ["a boy stands"], 3: ["two men"], 4: ["a road"]}
    found = chair(
        {i: text.split() for i, text in captions.items()},
        categories,
        {i: [text.split() for text in texts] for i, texts in references.items()},
        COCO,
    )
    # dog cat couch, man frisbee, man man: the cat and the frisbee are not there; the couch is in a reference only.
    assert found.hallucinated == {1: ("cat",), 2: ("frisbee",)}
    assert (found.mentions, found.captions) == (7, 4)
    assert found.chair_i == pytest.approx(2 / 7)
    assert found.chair_s == pytest.approx(2 / 4)
    assert found.as_dict()["CHAIR_i"] == found.chair_i
    assert found.as_dict()["mentions_per_caption"] == pytest.approx(7 / 4)


def test_an_ambiguous_word_is_right_if_any_of_its_meanings_is_there():
    for there, wrong in (["bicycle"], 0), (["motorcycle"], 0), (["car"], 1):
        assert chair({1: ["bike"]}, {1: there}, {1: []}, COCO).chair_i == wrong


def test_a_caption_without_objects_and_mistakes():
    assert chair({1: ["sky"]}, {1: []}, {1: []}, COCO).as_dict()["CHAIR_i"] == 0
    with pytest.raises(ValueError, match="picture 1 has a caption and no categories"):
        chair({1: ["dog"]}, {2: []}, {1: []}, COCO)
    with pytest.raises(ValueError, match="picture 1 has a caption and no references"):
        chair({1: ["dog"]}, {1: []}, {2: []}, COCO)
    with pytest.raises(ValueError, match="no caption"):
        chair({}, {}, {}, COCO)


def test_objects_of_an_instances_file(tmp_path):
    content = {
        "images": [{"id": 7}, {"id": 8}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "red circle"}],
        "annotations": [{"image_id": 7, "category_id": 3}, {"image_id": 7, "category_id": 3}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    assert load_objects(path) == (["dog", "red circle"], {7: {"red circle"}, 8: frozenset()})
    content["annotations"].append({"image_id": 9, "category_id": 3})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances\.json: no instances in COCO's layout: 9 is missing or unknown"):
        load_objects(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"instances\.json: not JSON"):
        load_objects(path)


@pytest.mark.skipif(not MINI.is_dir(), reason="the slice of COCO is not beside the repository")
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_people_hallucinate_little(split):
    """One reference as the caption, the other four as references: what is left are the table's faults and people's."""
    names, there = load_objects(MINI / f"instances_{split}.json")
    assert set(names) == set(SYNONYMS)
    references = defaultdict(list)
    for annotation in json.loads((MINI / f"captions_{split}.json").read_text())["annotations"]:
        references[annotation["image_id"]].append(tokenize(annotation["caption"]))
    captions = {image_id: texts.pop(0) for image_id, texts in references.items()}
    right = chair(captions, there, references, COCO)
    assert right.chair_i < 0.05
    assert right.mentions > len(captions)
    ids = list(captions)
    wrong = {a: captions[b] for a, b in zip(ids, ids[1:] + ids[:1], strict=True)}  # each says the next one's
    assert chair(wrong, there, references, COCO).chair_i > 0.4
