"""A bundle's model card, after Mitchell et al. (2019), "Model cards for model reporting": for people and for hubs.

    python -m eval card --bundle B --facts F.toml --footprint F.json [--peers P.json] [--scores DIR...] --out README.md

Numbers come from what was measured: the scores.json of `python -m eval captions` and `answers` (for each of the facts'
evaluation data the folder of that name; "precisions" and "answer_precisions" are the bundle's own, made by export), the
bundle's settings and files, `python -m eval footprint --out` and, if given, `python -m eval peers --out`. What only
people know comes from the facts, TOML or JSON: eval/gallery/box_card.toml is the box's. What is missing, or still "?",
is an error: nothing is made up. A card in the bundle's own folder is part of it, so the bundle is sealed again.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner import sharing
from captioner.atomic import write_text
from captioner.bundle import Bundle, read_manifest, seal
from eval.fields import field, read_json
from eval.results import metric_names

UNKNOWN = "?"
"""What stands in the facts for what nobody has filled in."""
CARD = "README.md"
FEWEST = 0.01
"""Share of the questions that a type must have for a row of its own."""
OWN = ("precisions", "answer_precisions")
"""Names in a bundle's scores.json."""
HUB_METRICS = {"Bleu_4": "bleu", "CIDEr": "cider", "METEOR": "meteor", "ROUGE_L": "rouge", "accuracy": "accuracy"}
LISTS = {
    "Intended use": "intended_use",
    "Out of scope: what it must not be used for": "out_of_scope",
    "Factors": "factors",
}

Scores = Mapping[str, Any]


class _Measured(dict[str, Any]):
    """Numbers of a file; ValueError says which is missing and where."""

    name: str

    @classmethod
    def of(cls, value: Any, name: str) -> Any:
        """The value, and every object in it."""
        if not isinstance(value, dict):
            return value
        found = cls({key: cls.of(inner, f"{name}.{key}") for key, inner in value.items()})
        found.name = name
        return found

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.name}.{key} is missing")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval card`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--facts", type=Path, required=True, help="what only people know, in TOML or JSON")
    add(
        "--scores",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of scores.json, named as in the facts",
    )
    add("--footprint", type=Path, required=True, help="what `python -m eval footprint --out` wrote")
    add("--peers", type=Path, help="what `python -m eval peers --out` wrote")
    add("--out", type=Path, required=True, help="the card, or the folder of the bundle for its README.md")


def main(args: argparse.Namespace) -> None:
    """Read, write, say where."""
    bundle = sharing.load(args.bundle)
    scores = {folder.resolve().name: read_json(folder / "scores.json") for folder in args.scores}
    measured = {name: read_json(path) for name in ("footprint", "peers") if (path := getattr(args, name))}
    text = card(bundle, load_facts(args.facts), {**own_scores(bundle), **scores}, **measured)
    out = args.out / CARD if args.out.is_dir() else args.out
    write_text(out, text)
    print(out)
    if out.parent.resolve() == bundle.folder.resolve():
        print(f"{bundle.folder} is sealed again: version {seal(bundle.folder)}")


def load_facts(path: Path) -> dict[str, Any]:
    """The facts; ValueError names the file, and what nobody has filled in."""
    if path.suffix == ".json":
        facts = read_json(path)
    else:
        try:
            facts = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise ValueError(f"{path}: cannot be read: {e.strerror}") from e
        except ValueError as e:
            raise ValueError(f"{path}: not TOML: {e}") from e
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: must hold an object, got {type(facts).__name__}")
    if unknown := list(_unknown(facts)):
        raise ValueError(f'{path}: still "{UNKNOWN}": {", ".join(unknown)}')
    return facts


def own_scores(bundle: Bundle) -> dict[str, Scores]:
    """Those that export made of the bundle's graphs, at the precision that serves."""
    serves = bundle.precision
    pair = f"encoder {serves}, decoder {serves}"
    found = {name: bundle.scores.get(name, {}).get(pair) for name in OWN}
    return {name: {**scores, "precision": serves} for name, scores in found.items() if scores}


def card(bundle: Bundle, facts: Mapping[str, Any], scores: Mapping[str, Scores], footprint: Scores,
         peers: Scores | None = None) -> str:  # fmt: skip
    """The card in Markdown, its metadata in YAML at the top; scores by the name of their evaluation data.

    Raises ValueError for anything that is missing, left over, or measured on another bundle.
    """
    tests = field(facts, "facts", "evaluation_data", list)
    for n, test in enumerate(tests):
        for name in ("scores", "name", "what"):
            field(test, f"facts.evaluation_data[{n}]", name, str)
    named = {test["scores"]: test for test in tests}
    if missing := [name for name in named if name not in scores]:
        raise ValueError(f"no scores of {missing[0]!r}: give --scores .../{missing[0]}")
    if more := [name for name in scores if name not in {*named, *OWN}]:
        raise ValueError(f"scores {more[0]!r} are of no evaluation_data in the facts")
    scores = {name: _Measured.of(scores[name], name) for name in named}
    footprint = _Measured.of(footprint, "footprint")
    peers = _Measured.of(peers, "peers") if peers else None
    for name, document in [*scores.items(), ("footprint", footprint), *([("peers", peers)] if peers else [])]:
        if document["bundle"] != bundle.name:
            raise ValueError(f"{name} was measured on the bundle {document['bundle']!r}, not {bundle.name!r}")
    kinds = [kind for kind, there in (("captions", bundle.model.captions), ("answers", bundle.model.answerer)) if there]
    for kind in kinds:
        if not any(_kind(document) == kind for document in scores.values()):
            raise ValueError(f"bundle {bundle.name}: no scores of its {kind}")
    lines = [
        *_metadata(bundle, facts, scores, named),
        f"# {_text(facts, 'title')}", "", _text(facts, "summary"),
        *_heading("Model details"), *_details(bundle, facts),
        *(line for title, name in LISTS.items() for line in (*_heading(title), *_items(facts, name))),
        *_heading("Training data"), *_training_data(facts),
        *_heading("Recipe"), *_items(facts, "recipe"),
        *_heading("Evaluation data"), *_evaluation_data(named, scores),
        *_heading("Metrics"), *_items(facts, "metrics"),
        *_heading("Quantitative results"), *_results(named, scores),
        *_heading("Sizes and latency"), *_costs(bundle, footprint, peers),
        *_heading("Known failures"), *_items(facts, "failures"),
        *_heading("Ethical considerations"), *_ethics(facts, named, scores),
        *_heading("Caveats and recommendations"), *_items(facts, "caveats"),
        *_heading("How to check"), "Every number above comes from one of these:", "",
        "```sh", *_strings(facts, "commands"), "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _metadata(
    bundle: Bundle, facts: Mapping[str, Any], scores: Mapping[str, Scores], named: Mapping[str, Any]
) -> Iterator[str]:
    hub = field(facts, "facts", "hub", dict)
    yield "---"
    for name, value in hub.items():
        yield f"{name}: {_yaml(value)}"
    yield from ("model-index:", f"- name: {_yaml(bundle.name)}", "  results:")
    for name, document in scores.items():
        captions = _kind(document) == "captions"
        task = "image-to-text" if captions else "visual-question-answering"
        yield from ("  - task:", f"      type: {task}", "    dataset:", f"      name: {_yaml(named[name]['name'])}")
        yield from (f"      type: {_yaml(name)}", "    metrics:")
        for metric, kind in HUB_METRICS.items():
            if metric in document["metrics"]:
                yield from (f"    - type: {kind}", f"      name: {metric}")
                yield f"      value: {100 * document['metrics'][metric]:.1f}"
    yield from ("---", "")


def _details(bundle: Bundle, facts: Mapping[str, Any]) -> Iterator[str]:
    model, (rows, columns, channels) = bundle.model, bundle.grid
    yield from ("| | |", "|---|---|")
    for name, value in field(facts, "facts", "details", dict).items():
        yield _row(name, value)
    size = model.preprocessing
    yield _row("encoder", f"`{model.encoder}`, {size.height} x {size.width} pixels to {rows} x {columns} x {channels}")
    if model.captions:
        attention = "soft attention" if model.attention == "soft" else "no attention"
        search, words = bundle.search, len(bundle.vocabulary)
        decoder = f"LSTM of {model.hidden_size} units, {attention}, {words} words; k = {search.beam_size}, at most "
        decoder += f"{search.max_words} words, ranked by log p / words ** {search.length_power:g}"
        yield _row("captions", decoder)
    if model.answerer:
        words, answers = len(bundle.question_vocabulary), len(bundle.answers)
        yield _row("answers", f"`{model.answerer.kind}`, {answers} answers, questions of {words} known words")
    yield _row("precision", " and ".join(bundle.precisions))


def _training_data(facts: Mapping[str, Any]) -> Iterator[str]:
    columns = ("name", "used_for", "amount", "licence", "basis")
    yield from _table(["data", "what for", "how much", "licence and terms", "how this is known"], [
        [field(entry, f"facts.training_data[{n}]", column, str) for column in columns]
        for n, entry in enumerate(field(facts, "facts", "training_data", list))
    ])  # fmt: skip


def _evaluation_data(named: Mapping[str, Any], scores: Mapping[str, Scores]) -> Iterator[str]:
    rows = []
    for name, test in named.items():
        own = scores[name]
        size = f"{own['pictures']:,} pictures"
        if _kind(own) == "answers":
            size += f", {own['questions']:,} questions"
        rows.append([test["name"], test["what"], size, f"`{own['annotations']}`", f"`{own['bundle_version']}`"])
    yield from _table(["data", "what", "size", "file", "asked of version"], rows)


def _results(named: Mapping[str, Any], scores: Mapping[str, Scores]) -> Iterator[str]:
    for n, (name, test) in enumerate(named.items()):
        own = scores[name]
        yield from ([""] if n else [])
        about = f"{own['precision']} graphs, {own['intervals_are']}"
        if _kind(own) == "captions":
            about = f"k = {own['beam_size']}, {about}"
        yield from (f"### {test['name']}", "", f"Times 100; {about}.", "")
        yield from _captions(own) if _kind(own) == "captions" else _answers(own)


def _captions(own: Scores) -> Iterator[str]:
    names = metric_names(own["metrics"])
    ends = own["intervals"]
    rows = [["this model", *(f"{100 * own['metrics'][metric]:.1f}" for metric in names)]]
    rows.append(["95 %", *(_between(ends[metric]) if metric in ends else "not computed" for metric in names)])
    for label, row in own.get("rows", {}).items():
        found = (row["metrics"].get(metric) for metric in names)
        rows.append([label, *("" if value is None else f"{100 * value:.1f}" for value in found)])
    yield from _table(["", *names], rows)
    language = own["language"]
    different = f"{100 * language['distinct_captions']:.0f} different captions to 100 pictures"
    yield from ("", f"{language['mean_length']:.1f} words to a caption, {language['vocabulary']} in use; {different}.")


def _answers(own: Scores) -> Iterator[str]:
    blind = own.get("rows", {}).get("question only")
    header = ["questions", "how many", "accuracy", "95 %", *(["question only"] if blind else [])]
    every = [["all", own["questions"], own["metrics"]["accuracy"], own["intervals"]["accuracy"],
              blind and blind["metrics"]["accuracy"]]]  # fmt: skip
    kinds = own["per_question_type"].items()
    for kind, part in (item for item in kinds if FEWEST * own["questions"] <= item[1]["questions"]):
        other = blind and blind["per_question_type"][kind]["accuracy"]
        every.append([kind, part["questions"], part["accuracy"], part["interval"], other])
    yield from _table(header, [
        [kind, f"{count:,}", f"{100 * accuracy:.1f}", _between(ends), *([f"{100 * other:.1f}"] if blind else [])]
        for kind, count, accuracy, ends, other in every
    ])  # fmt: skip


def _costs(bundle: Bundle, footprint: Scores, peers: Scores | None) -> Iterator[str]:
    hashes, _ = read_manifest(bundle.folder)
    rows = [[f"`{name}`", f"{(bundle.folder / name).stat().st_size:,}", f"`{digest[:12]}`"]
            for name, digest in hashes.items() if name != CARD]  # fmt: skip
    yield from _table(["file", "bytes", "SHA-256 begins"], rows)
    yield ""
    figures = [("import", "import_s", "s", 2), ("load", "load_s", "s", 2),
               ("from no process to the first caption", "cold_s", "s", 2)]  # fmt: skip
    for kind, there in (("caption", bundle.model.captions), ("answer about a new photo", bundle.answers)):
        short = kind.split()[0]
        if there:
            figures += [(f"first {kind}", f"first_{short}_ms", "ms", 1), (f"{kind}, warm", f"warm_{short}_ms", "ms", 1)]
    figures += [("largest resident memory", "peak_memory_mb", "MB", 0)]
    measured = []
    for label, name, unit, digits in figures:
        if (value := footprint[name]) is None:
            raise ValueError(f"footprint.{name} was not measured")
        measured.append([label, f"{value:.{digits}f} {unit}"])
    yield from _table(["", ""], measured)
    about = f"{footprint['photo']}, {footprint['threads']} threads, {footprint['engine']} on {footprint['machine']}"
    about += f", load of the machine before {footprint['load_before']:.1f}"
    yield from ("", f"Medians of {footprint['repeats']} processes: {about}.")
    if peers:
        ratios = (f"`{name}` takes {ratio:.0f} times as long ({peers['caption_ms'][name] / 1000:.2f} s)"
                  for name, ratio in peers["times_ours"].items())  # fmt: skip
        own = f"{peers['caption_ms']['captioner']:.1f} ms"
        versions = ", ".join(f"{name} {number}" for name, number in peers["versions"].items())
        yield from ("", f"Beside other libraries in one run (`python -m eval peers`, {peers['threads']} threads, "
                    f"{versions}, random weights): a caption takes {own}; {'; '.join(ratios)}.")  # fmt: skip


def _ethics(facts: Mapping[str, Any], named: Mapping[str, Any], scores: Mapping[str, Scores]) -> Iterator[str]:
    yield from _items(facts, "ethics")
    for name, own in scores.items():
        if _kind(own) == "captions":
            yield from ("", f"**Gender, measured** ({named[name]['name']}, `eval.bias`). {_gender(own)}")


def _gender(own: Scores) -> str:
    bias = own["bias"]
    if not bias["pictures"]:
        return "No picture has references that agree on a gender."
    said = f"Of {bias['pictures']} pictures whose references agree on a gender, the caption says the other one for "
    said += f"{100 * bias['error']:.1f} %"
    each = ((who, bias[f"error_{who}"]) for who in ("woman", "man"))
    said += "".join(f"; of those of a {who} for {100 * error:.1f} %" for who, error in each if error is not None)
    ratios = ("said", "seen")
    if all(bias[f"ratio_{which}"] is not None for which in ratios):
        how_often, truth = (bias[f"ratio_{which}"] for which in ratios)
        said += f". Captions say woman {how_often:.2f} times as often as man; the references do {truth:.2f} times"
    if looks := bias.get("looks"):
        said += f". Attention peaks on a person for {100 * looks['share']:.0f} % of {looks['words']} gendered nouns"
        said += f" (a random cell: {100 * looks['chance']:.0f} %)"
    return f"{said}."


def _kind(scores: Scores) -> str:
    return "captions" if "Bleu_4" in scores.get("metrics", {}) else "answers"


def _text(facts: Mapping[str, Any], name: str) -> str:
    text: str = field(facts, "facts", name, str)
    return text.strip()


def _strings(facts: Mapping[str, Any], name: str) -> list[str]:
    found = field(facts, "facts", name, list)
    if not found or not all(isinstance(text, str) for text in found):
        raise ValueError(f"facts.{name} must be a list of texts with one at least")
    return [text.strip() for text in found]


def _items(facts: Mapping[str, Any], name: str) -> list[str]:
    return [f"- {text}" for text in _strings(facts, name)]


def _heading(title: str) -> list[str]:
    return ["", f"## {title}", ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(*header), "|" + "---|" * len(header), *(_row(*row) for row in rows)]


def _row(*cells: object) -> str:
    return f"| {' | '.join(' '.join(str(cell).split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _between(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}"


def _yaml(value: object) -> str:
    """JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _unknown(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, str) and UNKNOWN in (word.rstrip(".,;)") for word in value.split()):
        yield where
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _unknown(part, f"{where}[{key}]" if isinstance(value, list) else f"{where}.{key}".lstrip("."))
