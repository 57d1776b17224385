"""`python -m eval card`: every number is one that was measured, and what is missing is an error."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from shutil import copytree

import pytest

from captioner.bundle import Bundle
from eval import card
from eval.__main__ import main

FACTS = {
    "title": "Tiny", "summary": "A model for tests.",
    **{name: [f"something about {name}"] for name in
       ("intended_use", "out_of_scope", "factors", "recipe", "metrics", "failures", "ethics", "caveats", "commands")},
    "hub": {"license": "other", "tags": ["a: b", "c"], "pipeline_tag": "image-to-text"},
    "details": {"made by": "a | person"},
    "evaluation_data": [
        {"scores": "captions_val", "name": "Some captions", "what": "by people"},
        {"scores": "answers_val", "name": "Some answers", "what": "by people"},
    ],
    "training_data": [
        {"name": "drawings", "used_for": "all", "amount": "8", "licence": "ours", "basis": "made here"},
    ],
}  # fmt: skip
CAPTIONS = {
    "metrics": {"Bleu_1": 0.6204, "Bleu_4": 0.2081, "CIDEr": 0.441, "METEOR": 0.186},
    "intervals": {"Bleu_1": [0.6, 0.64], "Bleu_4": [0.194, 0.22], "CIDEr": [0.412, 0.476]},
    "intervals_are": "95 %, bootstrap", "rows": {"human": {"metrics": {"Bleu_4": 0.212, "CIDEr": 0.804}}},
    "language": {"mean_length": 9.26, "vocabulary": 78, "distinct_captions": 0.87},
    "bias": {"pictures": 50, "error": 0.18, "error_woman": 0.4, "error_man": 0.0857, "ratio_said": 0.1875,
             "ratio_seen": 0.4286, "looks": {"words": 20, "share": 0.85, "chance": 0.3}},
    "beam_size": 7, "pictures": 100, "annotations": "captions_val.json", "precision": "int8", "bundle": "tiny",
    "bundle_version": "abc",
}  # fmt: skip
ANSWERS = {
    "metrics": {"accuracy": 0.527}, "intervals": {"accuracy": [0.501, 0.5565]}, "intervals_are": "95 %, bootstrap",
    "per_question_type": {"colour": {"accuracy": 0.46, "interval": [0.41, 0.51], "questions": 315}},
    "rows": {"question only": {"metrics": {"accuracy": 0.39},
                               "per_question_type": {"colour": {"accuracy": 0.143}}}},
    "questions": 1283, "pictures": 694, "annotations": "annotations_val.json", "precision": "int8", "bundle": "tiny",
    "bundle_version": "abc",
}  # fmt: skip
SCORES = {"captions_val": CAPTIONS, "answers_val": ANSWERS}
FOOTPRINT = {
    "import_s": 0.11, "load_s": 0.22, "cold_s": 0.5, "first_caption_ms": 30.0, "warm_caption_ms": 9.87,
    "first_answer_ms": 8.0, "warm_answer_ms": 4.56, "peak_memory_mb": 123.4, "photo": "mine.jpg", "threads": 2,
    "engine": "onnxruntime 1", "machine": "x86_64", "repeats": 5, "load_before": 0.0, "bundle": "tiny",
}  # fmt: skip
PEERS = {"bundle": "tiny", "threads": 2, "versions": {"transformers": "5"}, "times_ours": {"vit_gpt2": 176.4},
         "caption_ms": {"captioner": 14.8, "vit_gpt2": 2611.0}}  # fmt: skip


@pytest.fixture
def bundle(tiny_bundle_answers) -> Bundle:
    return Bundle.open(tiny_bundle_answers)


def test_every_section_and_number(bundle):
    text = card.card(bundle, FACTS, SCORES, FOOTPRINT, PEERS)
    for title in ("Model details", "Intended use", "Out of scope", "Factors", "Training data", "Recipe",
                  "Evaluation data", "Metrics", "Quantitative results", "Sizes and latency", "Known failures",
                  "Ethical considerations", "Caveats", "How to check"):  # fmt: skip
        assert f"\n## {title}" in text
    assert "| this model | 62.0 | 20.8 | 44.1 | 18.6 |" in text
    assert "| 95 % | 60.0-64.0 | 19.4-22.0 | 41.2-47.6 | not computed |" in text
    assert "| human |  | 21.2 | 80.4 |  |" in text
    assert "| all | 1,283 | 52.7 | 50.1-55.6 | 39.0 |" in text
    assert "| colour | 315 | 46.0 | 41.0-51.0 | 14.3 |" in text
    assert "18.0 %; of those of a woman for 40.0 %; of those of a man for 8.6 %" in text
    assert "| caption, warm | 9.9 ms |" in text
    assert "`vit_gpt2` takes 176 times as long (2.61 s)" in text
    assert "| made by | a \\| person |" in text
    assert "| drawings | all | 8 | ours | made here |" in text
    size = (bundle.folder / "encoder.int8.onnx").stat().st_size
    assert f"| `encoder.int8.onnx` | {size:,} |" in text


def test_a_hub_can_read_the_metadata(bundle):
    yaml = pytest.importorskip("yaml")
    text = card.card(bundle, FACTS, SCORES, FOOTPRINT)
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["tags"] == ["a: b", "c"]
    (model,) = data["model-index"]
    assert model["name"] == "tiny"
    assert [result["dataset"]["name"] for result in model["results"]] == ["Some captions", "Some answers"]
    values = {metric["type"]: metric["value"] for result in model["results"] for metric in result["metrics"]}
    assert values == {"bleu": 20.8, "cider": 44.1, "meteor": 18.6, "accuracy": 52.7}
    hub = pytest.importorskip("huggingface_hub")
    assert len(hub.ModelCard(text).data.eval_results) == 4


def places(value: object, way: tuple = ()) -> list[tuple]:
    """The way to every number and table of numbers of a measurement."""
    if not isinstance(value, dict):
        return [way]
    return [place for key, inner in value.items() for place in places(inner, (*way, key))]


OPTIONAL = ("rows", "metrics", "intervals", "looks", "vit_gpt2", "transformers", "colour")
"""Where less can be there: names of rows, metrics, peers and kinds of questions."""
MEASURED = {**SCORES, "footprint": FOOTPRINT, "peers": PEERS}
NEEDED = [(name, place) for name, own in MEASURED.items() for place in places(own) if not set(place) & set(OPTIONAL)]


@pytest.mark.parametrize(("name", "place"), NEEDED, ids=lambda part: part if isinstance(part, str) else ".".join(part))
def test_a_missing_number_is_an_error(bundle, name, place):
    measured = deepcopy(MEASURED)
    inner = measured[name]
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    footprint, peers = measured.pop("footprint"), measured.pop("peers")
    with pytest.raises(ValueError, match=re.escape(place[-1])):
        card.card(bundle, FACTS, measured, footprint, peers)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_a_missing_fact_is_an_error(bundle, name):
    with pytest.raises(ValueError, match=f"facts.{name} is missing"):
        card.card(bundle, {key: value for key, value in FACTS.items() if key != name}, SCORES, FOOTPRINT)


def test_scores_must_be_all_there_and_of_this_bundle(bundle):
    with pytest.raises(ValueError, match="no scores of 'answers_val': give --scores "):
        card.card(bundle, FACTS, {"captions_val": CAPTIONS}, FOOTPRINT)
    with pytest.raises(ValueError, match="scores 'more' are of no evaluation_data"):
        card.card(bundle, FACTS, {**SCORES, "more": ANSWERS}, FOOTPRINT)
    with pytest.raises(ValueError, match="captions_val was measured on the bundle 'other', not 'tiny'"):
        card.card(bundle, FACTS, {**SCORES, "captions_val": {**CAPTIONS, "bundle": "other"}}, FOOTPRINT)
    only = {**FACTS, "evaluation_data": FACTS["evaluation_data"][:1]}
    with pytest.raises(ValueError, match="bundle tiny: no scores of its answers"):
        card.card(bundle, only, {"captions_val": CAPTIONS}, FOOTPRINT)


def test_what_nobody_has_filled_in_is_named(tmp_path):
    path = tmp_path / "facts.toml"
    path.write_text('title = "?"\nrecipe = ["It took ? hours.", "Is this fine? Yes."]\n[details]\ndate = "?"\n')
    with pytest.raises(ValueError, match=re.escape('still "?": title, recipe[0], details.date')):
        card.load_facts(path)


def test_the_box_s_facts_are_whole_but_for_what_is_not_known_yet(bundle, tmp_path):
    known = re.sub(
        r"(?<=[\s\"])\?(?=[\s\".])", "(known)", (Path(card.__file__).parent / "gallery/box_card.toml").read_text()
    )
    path = tmp_path / "facts.toml"
    path.write_text(known)
    facts = card.load_facts(path)
    names = [test["scores"] for test in facts["evaluation_data"]]
    scores = {name: CAPTIONS if "flickr8k" in name else ANSWERS for name in names}
    assert card.card(bundle, facts, scores, FOOTPRINT).count("not verified here") == len(facts["training_data"])


def test_a_card_in_the_bundle_is_sealed_with_it(tiny_bundle_answers, tmp_path, capsys):
    folder = copytree(tiny_bundle_answers, tmp_path / "bundle")
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    (tmp_path / "footprint.json").write_text(json.dumps(FOOTPRINT))
    for name, scores in SCORES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(scores))
    flags = ["card", "--bundle", str(folder), "--facts", str(tmp_path / "facts.json"), "--scores",
             *(str(tmp_path / name) for name in SCORES), "--footprint", str(tmp_path / "footprint.json")]  # fmt: skip
    assert main([*flags, "--out", str(folder)]) == 0
    version = Bundle.open(folder).version
    assert f"sealed again: version {version}" in capsys.readouterr().out
    assert version != Bundle.open(tiny_bundle_answers).version
    text = (folder / "README.md").read_text()
    assert main([*flags, "--out", str(folder)]) == 0  # the card does not count itself
    assert (folder / "README.md").read_text() == text
