"""What the command line prints, for people and as JSON, and where it draws."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.captioner import Captioner
from captioner.engine import engine_name
from captioner.results import Answered, Caption


def complain(sentence: str, status: int = 1) -> int:
    """Say what is wrong on stderr; return the exit status."""
    print(f"captioner: {sentence}", file=sys.stderr)
    return status


def reason(error: Exception) -> str:
    """An exception without the errno and the path that Python puts around an OSError."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def show_captions(photo: str, captions: Sequence[Caption], as_json: bool) -> None:
    """The captions of a photo with their log-probabilities."""
    if as_json:
        _show_json({"photo": photo, "captions": [_plain(caption) for caption in captions]})
    else:
        _show_lines(photo, *(f"  {caption.log_prob:7.2f}  {caption.text}" for caption in captions))


def show_answered(photo: str, question: str, answered: Answered, as_json: bool) -> None:
    """The answers to a question with their probabilities."""
    if as_json:
        answers = [{"text": answer.text, "probability": answer.probability} for answer in answered.answers]
        _show_json(
            {
                "photo": photo,
                "question": question,
                "unknown_words": list(answered.unknown_words),
                "answers": answers,
                "attention": None if answered.attention is None else answered.attention.tolist(),
            }
        )
        return
    lines = [f"  {100 * answer.probability:5.1f} %  {answer.text}" for answer in answered.answers]
    if answered.unknown_words:
        lines.append(f"  words it does not know: {', '.join(answered.unknown_words)}")
    if answered.unknown_candidates:
        lines.append(f"  answers it cannot give: {', '.join(answered.unknown_candidates)}")
    _show_lines(photo, question, *lines)


def show_facts(captioner: Captioner) -> None:
    """What is in a bundle, and what runs it."""
    facts = _facts(captioner)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def figure_paths(photos: Sequence[str], out: Path) -> list[Path]:
    """The .png itself for one photo; in a folder the photos' names, numbered where two are the same."""
    if len(photos) == 1 and out.suffix.lower() == ".png":
        return [out]
    paths: list[Path] = []
    for photo in photos:
        path, n = out / f"{Path(photo).stem}.png", 1
        while path in paths:
            n += 1
            path = out / f"{Path(photo).stem}-{n}.png"
        paths.append(path)
    return paths


def _show_json(one: dict[str, Any]) -> None:
    print(json.dumps(one, ensure_ascii=False), flush=True)


def _show_lines(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def _plain(caption: Caption) -> dict[str, Any]:
    words = [
        {
            "text": word.text,
            "log_prob": word.log_prob,
            "attention": None if word.attention is None else word.attention.tolist(),
        }
        for word in caption.words
    ]
    return {"text": caption.text, "log_prob": caption.log_prob, "words": words}


def _facts(captioner: Captioner) -> dict[str, Any]:
    bundle = captioner.bundle
    rows, columns, channels = bundle.grid
    facts: dict[str, Any] = {"name": bundle.name, "version": bundle.version, "folder": bundle.folder}
    settings = bundle.model.to_dict()
    answerer = settings.pop("answerer")
    for name, value in settings.items():
        facts |= value if isinstance(value, dict) else {name: value}
    facts["grid"] = f"{rows} rows x {columns} columns, {channels} channels"
    if bundle.model.captions:
        facts["vocabulary"] = f"{len(bundle.vocabulary)} words"
        facts |= {name: getattr(bundle.search, name) for name in ("beam_size", "max_words", "length_power")}
    if answerer is not None:
        facts |= _flat("answerer", answerer)
        facts["answers"] = len(bundle.answers) or "candidates only"
        facts["question words"] = f"{len(bundle.question_vocabulary)} words"
    for precision in bundle.precisions:
        files = [bundle.graph(graph, precision) for graph in bundle.graphs]
        facts[precision] = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files)
    scores = dict(bundle.scores)
    for pair, score in scores.pop("precisions", {}).items():
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in score["metrics"].items())
        facts[f"score {pair}"] = f"{metrics} ({score['annotations']}, k = {score['beam_size']})"
    facts |= _flat("score", scores)
    facts["engine"] = f"{engine_name()}, {captioner.precision}, provider {captioner.provider}"
    return facts


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A line for each value of nested tables, named by the way to it."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for inner, part in value.items() for key, leaf in _flat(f"{name} {inner}", part).items()}
