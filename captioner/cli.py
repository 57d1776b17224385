"""`captioner caption PHOTO...` writes captions; `captioner info` says what is in a bundle."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.bundle import BundleError, Graph
from captioner.captioner import Captioner
from captioner.engine import PROVIDERS, EngineError, engine_name
from captioner.figure import attention_figure
from captioner.images import BadImage, read_photo
from captioner.results import Caption

VARIABLE, USUAL = "CAPTIONER_BUNDLE", Path("bundles/default")
GRAPHS: tuple[Graph, Graph] = ("encoder", "captioner")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 all well, 1 some photo failed, 2 nothing could be done."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except BrokenPipeError:  # the reader has gone, as head does: nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BundleError, EngineError, ValueError) as e:
        return _complain(str(e), status=2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="captioner", description="Captions for photos, and where the model looked.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    caption = commands.add_parser("caption", help="write captions for photos")
    caption.set_defaults(run=_caption)
    caption.add_argument("photos", nargs="+", metavar="PHOTO", help="a JPEG, PNG, WebP or GIF file")
    caption.add_argument(
        "--beam-size", type=int, metavar="K", help="hypotheses that the search keeps, 1 to 20 (the model's)"
    )
    caption.add_argument("--max-words", type=int, metavar="N", help="longest caption, 1 to 50 words (the model's)")
    caption.add_argument("--captions", type=int, metavar="N", help="captions for each photo (3)")
    caption.add_argument(
        "--length-power",
        type=float,
        metavar="A",
        help="rank by log p / length ** A, 0 to 2: more favours longer ones (the model's)",
    )
    caption.add_argument(
        "--attention", type=Path, metavar="OUT", help="draw where the model looked: a .png, or a folder for several"
    )
    caption.add_argument("--json", action="store_true", help="one JSON object per photo and line")

    info = commands.add_parser("info", help="say what is in a bundle")
    info.set_defaults(run=_info)
    for command in (caption, info):
        command.add_argument("--bundle", type=Path, metavar="DIR", help=f"the model (${VARIABLE}, else ./{USUAL})")
        command.add_argument("--precision", choices=("int8", "fp32"), help="which graphs to run (int8 if there)")
        command.add_argument("--threads", type=int, metavar="N", help="of the engine (one for each core)")
        command.add_argument("--provider", choices=tuple(PROVIDERS), default="cpu", help="what runs the model (cpu)")
        command.add_argument("--require-gpu", action="store_true", help="fail rather than fall back to the CPU")
    return parser


def _load(options: argparse.Namespace) -> Captioner:
    folder = options.bundle or os.environ.get(VARIABLE) or (USUAL if USUAL.is_dir() else None)
    if folder is None:
        raise BundleError(f"no bundle: give --bundle DIR, set {VARIABLE}, or have one in ./{USUAL}")
    return Captioner.load(folder, options.precision, options.threads, options.provider, options.require_gpu)


def _caption(options: argparse.Namespace) -> int:
    out: Path | None = options.attention
    several = len(options.photos) > 1
    if out is not None and several and out.suffix.lower() == ".png":
        raise ValueError(f"--attention must be a folder for {len(options.photos)} photos, got {out}")
    captioner = _load(options)
    search = captioner.options(options.beam_size, options.max_words, options.captions, options.length_power)
    status = 0
    if out is not None and captioner.bundle.model.attention == "none":
        status = _complain(f"--attention: the model {captioner.bundle.name} has no attention to draw")
        out = None
    figures: Sequence[Path | None] = [None] * len(options.photos) if out is None else _figure_paths(options.photos, out)
    for photo, figure in zip(options.photos, figures, strict=True):
        try:
            captions = captioner.caption_batch([photo], search)[0]
        except (BadImage, OSError) as e:
            status = _complain(f"{photo}: {e.strerror or e}" if isinstance(e, OSError) else f"{photo}: {e}")
            continue
        _show(photo, captions, options.json)
        if figure is not None and captions:
            try:
                figure.parent.mkdir(parents=True, exist_ok=True)
                attention_figure(read_photo(photo, captioner.limits), captions[0]).save(figure)
            except OSError as e:
                status = _complain(f"{figure}: {e.strerror or e}")
    return status


def _show(photo: str, captions: list[Caption], as_json: bool) -> None:
    if as_json:
        one = {"photo": photo, "captions": [_plain(caption) for caption in captions]}
        print(json.dumps(one, ensure_ascii=False), flush=True)
        return
    lines = [photo, *(f"  {caption.log_prob:7.2f}  {caption.text}" for caption in captions)]
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


def _figure_paths(photos: Sequence[str], out: Path) -> list[Path]:
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


def _info(options: argparse.Namespace) -> int:
    captioner = _load(options)
    bundle = captioner.bundle
    rows, columns, channels = bundle.grid
    facts: dict[str, Any] = {"name": bundle.name, "version": bundle.version, "folder": bundle.folder}
    for name, value in bundle.model.to_dict().items():
        facts |= value if isinstance(value, dict) else {name: value}
    facts["grid"] = f"{rows} rows x {columns} columns, {channels} channels"
    facts["vocabulary"] = f"{len(bundle.vocabulary)} words"
    search = bundle.search
    facts |= {name: getattr(search, name) for name in ("beam_size", "max_words", "length_power")}
    for precision in bundle.precisions:
        files = [bundle.graph(graph, precision) for graph in GRAPHS]
        facts[precision] = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files)
    scores = dict(bundle.scores)
    for pair, score in scores.pop("precisions", {}).items():
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in score["metrics"].items())
        facts[f"score {pair}"] = f"{metrics} ({score['annotations']}, k = {score['beam_size']})"
    facts |= _flat("score", scores)
    facts["engine"] = f"{engine_name()}, {captioner.precision}, provider {captioner.provider}"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    return 0


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A line for each value of nested tables, named by the way to it."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for inner, part in value.items() for key, leaf in _flat(f"{name} {inner}", part).items()}


def _complain(sentence: str, status: int = 1) -> int:
    print(f"captioner: {sentence}", file=sys.stderr)
    return status
