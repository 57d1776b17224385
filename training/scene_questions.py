"""Questions about the drawn scenes, with the box that holds the answer: the test bed of visual question answering.

Kinds are colour, shape, place, count and yes/no. Every question has one answer: a shape is described by what nothing
else in the scene shares. Half of the yes/no questions are true, and so is about half of each wording, so that words
alone tell nothing; what is not true is off by one colour, form or place. Files are in the VQA layout
(`questions_{split}.json`, `annotations_{split}.json`); an annotation has a `box` [x, y, width, height] in pixels where
the question speaks of exactly one shape that is there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from captioner.atomic import write_text
from training.scenes import COLOURS, PLACES, SHAPES, SIDE

VALUES = {"colour": tuple(COLOURS), "form": SHAPES, "place": PLACES}
ANSWER_TYPES = {"colour": "other", "shape": "other", "place": "other", "count": "number", "yes/no": "yes/no"}
"""By kind."""
PEOPLE = 10
"""How often the answer is repeated: VQA accuracy asks for ten people."""
_STREAM = 1  # the drawing itself is default_rng(image_id)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Shape:
    """A shape, or what is said of one: None is left unsaid."""

    colour: str | None = None
    form: str | None = None
    place: str | None = None

    def said(self, names: Sequence[str]) -> Shape:
        """What is left when only these attributes are named."""
        return Shape(**{name: getattr(self, name) for name in names})

    def fits(self, shape: Shape) -> bool:
        """Whether all that is said is so of the shape."""
        return all(getattr(self, name) in (None, getattr(shape, name)) for name in VALUES)

    def __str__(self) -> str:
        if self == Shape():
            return "shape in the picture"
        return " ".join(word for word in (self.colour, self.form or "shape", self.place) if word)


@dataclass(frozen=True)
class Asked:
    """A question and its answer."""

    kind: str
    text: str
    answer: str
    about: Shape | None
    """The one shape that is spoken of, if it is there."""


def write_questions(folder: Path, split: str) -> None:
    """Write the questions of a split that was drawn, from its boxes; the annotations are written last."""
    instances = json.loads((folder / f"instances_{split}.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"].split() for category in instances["categories"]}
    scenes: dict[int, dict[Shape, list[int]]] = defaultdict(dict)
    for annotation in instances["annotations"]:
        colour, form = names[annotation["category_id"]]
        shape = Shape(colour, form, _place(annotation["bbox"]))
        scenes[annotation["image_id"]][shape] = annotation["bbox"]
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in instances["images"]:
        boxes = scenes[image["id"]]
        for n, asked in enumerate(ask(list(boxes), np.random.default_rng((image["id"], _STREAM)))):
            ids = {"question_id": 10 * image["id"] + n, "image_id": image["id"]}
            questions.append({**ids, "question": asked.text})
            annotations.append({**ids, **_annotation(asked), **({"box": boxes[asked.about]} if asked.about else {})})
    header = {"task_type": "Open-Ended", "data_type": "scenes", "data_subtype": split}
    asked_of = {**header, "images": instances["images"], "questions": questions}
    # Without line breaks: ten answers to each of thousands of questions would be a million lines.
    write_text(folder / f"questions_{split}.json", json.dumps(asked_of))
    write_text(folder / f"annotations_{split}.json", json.dumps({**header, "annotations": annotations}))


def ask(shapes: Sequence[Shape], random: np.random.Generator) -> list[Asked]:
    """Six to eight questions about a scene: the colour and the form of each shape, a place, a count, a yes and a no."""
    found = []
    for shape in shapes:
        found += [_colour(shape, shapes, random), _form(shape, shapes, random)]
    told_apart = [shape for shape in shapes if _descriptions(shape, shapes, "place")]
    if told_apart:  # not two shapes of one colour and form
        found.append(_where(_pick(told_apart, random), shapes, random))
    return [*found, _count(shapes, random), *(_yes_or_no(shapes, truth, random) for truth in (True, False))]


def _colour(shape: Shape, shapes: Sequence[Shape], random: np.random.Generator) -> Asked:
    text = _pick(("what colour is the {}?", "what is the colour of the {}?"), random)
    it = _pick(_descriptions(shape, shapes, "colour"), random)
    return Asked("colour", text.format(it), str(shape.colour), shape)


def _form(shape: Shape, shapes: Sequence[Shape], random: np.random.Generator) -> Asked:
    it = _pick(_descriptions(shape, shapes, "form"), random)
    is_so = " and ".join(word for word in (it.colour, it.place) if word) or "in the picture"
    text = _pick((f"what shape is {is_so}?", f"which shape is {is_so}?", f"what is the {it}?"), random)
    return Asked("shape", text, str(shape.form), shape)


def _where(shape: Shape, shapes: Sequence[Shape], random: np.random.Generator) -> Asked:
    text = _pick(("where is the {}?", "in which corner is the {}?"), random)
    it = _pick(_descriptions(shape, shapes, "place"), random)
    return Asked("place", text.format(it), str(shape.place).removeprefix("at the "), shape)


def _count(shapes: Sequence[Shape], random: np.random.Generator) -> Asked:
    text = _pick(("how many {} are there?", "how many {} are in the picture?"), random)
    names = _pick(((), ("colour",), ("form",), ("colour", "form")), random)
    counted = _pick(shapes, random).said(names)
    if names and random.integers(2):
        counted = _absent(counted, shapes, random)
    plural = " ".join(word for word in (counted.colour, _plural(counted.form or "shape")) if word)
    return Asked("count", text.format(plural), str(sum(counted.fits(shape) for shape in shapes)), None)


def _yes_or_no(shapes: Sequence[Shape], truth: bool, random: np.random.Generator) -> Asked:
    answer = "yes" if truth else "no"
    shape = _pick(shapes, random)
    asked = _pick(("", *VALUES), random)
    descriptions = _descriptions(shape, shapes, asked) if asked else []
    if descriptions:
        said = shape.said([asked])
        claim = said if truth else _absent(said, [shape], random)
        claimed = f"a {claim.form}" if asked == "form" else str(getattr(claim, asked))
        return Asked("yes/no", f"is the {_pick(descriptions, random)} {claimed}?", answer, shape)
    text = _pick(("is there {}?", "can you see {}?"), random)
    thing = shape.said(_pick(_subsets(tuple(VALUES))[1:], random))
    if not truth:
        thing = _absent(thing, shapes, random)
    alike = [other for other in shapes if thing.fits(other)]
    return Asked("yes/no", text.format(_with_article(thing)), answer, alike[0] if len(alike) == 1 else None)


def _descriptions(shape: Shape, shapes: Sequence[Shape], asked: str) -> list[Shape]:
    """All that can be said of the shape and of no other, the attribute that is asked for left out."""
    said = [shape.said(names) for names in _subsets([name for name in VALUES if name != asked])]
    return [it for it in said if sum(it.fits(other) for other in shapes) == 1]


def _absent(said: Shape, shapes: Sequence[Shape], random: np.random.Generator) -> Shape:
    """The same with one attribute changed, so that it fits no shape of the scene."""
    name = _pick([name for name in VALUES if getattr(said, name)], random)
    changed = [replace(said, **{name: value}) for value in VALUES[name]]
    return _pick([it for it in changed if not any(it.fits(shape) for shape in shapes)], random)


def _annotation(asked: Asked) -> dict[str, Any]:
    people = [{"answer": asked.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(PEOPLE)]
    kinds = {"question_type": asked.kind, "answer_type": ANSWER_TYPES[asked.kind]}
    return {**kinds, "multiple_choice_answer": asked.answer, "answers": people}


def _place(box: Sequence[float]) -> str:
    x, y, width, height = box
    return PLACES[int(2 * ((y + height / 2) // (SIDE / 2)) + (x + width / 2) // (SIDE / 2))]


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [subset for size in range(len(names) + 1) for subset in combinations(names, size)]


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _with_article(shape: Shape) -> str:
    return f"{'an' if str(shape)[0] in 'aeiou' else 'a'} {shape}"


def _pick(options: Sequence[_T], random: np.random.Generator) -> _T:
    return options[int(random.integers(len(options)))]
