"""python -m captioner.model.export RUN --out BUNDLE: make the bundle of a training run.

Writes the fp32 graphs, compares them with torch on real photos and stops at a difference; then the int8 graphs,
calibrated on training photos; then scores.json with the BLEU of every pair of precisions on the validation split.
`--precision int8` keeps the int8 graphs alone, once all of this is measured: a fifth of the size.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.bundle import FORMAT_VERSION, MANIFEST, seal
from captioner.config import Preprocessing, SearchOptions
from captioner.images import photo_files
from captioner.lexicon import Lexicon
from captioner.model import calibration, graphs
from captioner.model.network import Network
from captioner.model.parity import AnswerDifference, Difference, ParityError, compare, compare_answers
from captioner.model.quantize import quantize_decoder
from captioner.model.quantize_encoder import quantize_encoder
from captioner.model.runs import joined, network_of_run
from captioner.preprocess import load_pixels

log = logging.getLogger(__name__)
CALIBRATION_PHOTOS = 100
PARITY_PHOTOS = 8
EXAMPLE_QUESTIONS = "example_questions.json"
"""In a run's folder: training questions."""
WEIGHTS = "weights.safetensors"
"""Of the whole network, for torch."""
PRECISIONS = {"fp32": "", "int8": ".int8"}


def write_bundle(
    network: Network,
    lexicon: Lexicon,
    name: str,
    search: SearchOptions,
    photos: Sequence[NDArray[np.uint8]],
    out: Path,
    questions: Sequence[str] = (),
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Fill the folder `out` with a sealed bundle.

    Photos uint8 [H, W, 3] serve for comparison and calibration, and so do questions where the network answers any.
    Raises ParityError where onnxruntime and torch differ; nothing is sealed then.
    """
    out.mkdir(parents=True, exist_ok=True)
    network.eval()
    config = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "model": network.config.to_dict(),
        "grid": list(network.grid),
        "search": {"beam_size": search.beam_size, "max_words": search.max_words, "length_power": search.length_power},
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    lexicon.save(out, network.config)
    network.save(out / WEIGHTS)
    log.info("writing fp32 graphs")
    graphs.write_encoder(network.encoder, network.config.preprocessing, out / graphs.ENCODER)
    parity: dict[str, Any] = {}
    if network.config.captions:
        graphs.write_captioner(network, out / graphs.CAPTIONER)
        parity |= _captions_parity(compare(network, out, photos[:PARITY_PHOTOS]))
    if network.answerer is not None:
        graphs.write_answerer(network, out / graphs.ANSWERER)
        parity |= _answers_parity(compare_answers(network, out, photos[:PARITY_PHOTOS]))
    log.info("writing int8 graphs, calibrated on %d photos", len(photos))
    quantize_encoder(out / graphs.ENCODER, out / "encoder.int8.onnx", photos)
    grids_BPC = calibration.grids(out / "encoder.int8.onnx", photos)
    if network.config.captions:
        quantize_decoder(
            out / graphs.CAPTIONER, out / "captioner.int8.onnx", calibration.search_examples(grids_BPC, search)
        )
    if network.answerer is not None:
        examples = calibration.answer_examples(network, lexicon, grids_BPC, questions)
        quantize_decoder(out / graphs.ANSWERER, out / "answerer.int8.onnx", examples)
    (out / "scores.json").write_text(json.dumps({"torch_against_onnxruntime": parity, **(scores or {})}, indent=1))
    seal(out)


def keep_int8(bundle: Path) -> None:
    """Leave the fp32 graphs and torch's weights out of a bundle; what was measured with them stays in scores.json."""
    (bundle / MANIFEST).unlink()  # what is not whole must not look it
    for name in (WEIGHTS, graphs.ENCODER, graphs.CAPTIONER, graphs.ANSWERER):
        (bundle / name).unlink(missing_ok=True)
    seal(bundle)


def _captions_parity(differences: Sequence[Difference]) -> dict[str, Any]:
    for difference in differences:
        log.info("equal to torch: %s", difference)
    return {
        "cases": len(differences),
        "largest_grid_difference": max(d.grid for d in differences),
        "largest_score_difference": max(d.scores for d in differences),
        "largest_attention_difference": max(d.attention for d in differences),
    }


def _answers_parity(differences: Sequence[AnswerDifference]) -> dict[str, Any]:
    for difference in differences:
        log.info("equal to torch: %s", difference)
    return {
        "answer_cases": len(differences),
        "largest_answer_difference": max(d.probabilities for d in differences),
        "largest_answer_attention_difference": max(d.attention for d in differences),
    }


def score_precisions(bundle: Path, command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """scores.json of every pair of precisions: `python -m eval captions` or `answers` with these further arguments."""
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for encoder, encoder_suffix in PRECISIONS.items():
            for decoder, decoder_suffix in PRECISIONS.items():
                variant = Path(folder) / f"{encoder}-{decoder}"
                variant.mkdir()
                for path in bundle.glob("*.json"):
                    shutil.copy(path, variant)
                shutil.copy(bundle / f"encoder{encoder_suffix}.onnx", variant / graphs.ENCODER)
                for graph in (graphs.CAPTIONER, graphs.ANSWERER):
                    if (bundle / graph).exists():
                        source = bundle / graph.replace(".onnx", f"{decoder_suffix}.onnx")
                        shutil.copy(source, variant / graph)
                seal(variant)
                out = variant / "eval"
                given = ["--bundle", str(variant), "--out", str(out), *arguments]
                subprocess.run([sys.executable, "-m", "eval", command, *given], check=True)
                table[f"encoder {encoder}, decoder {decoder}"] = json.loads((out / "scores.json").read_text())
    return table


def _question_flags(files: Mapping[str, Any], data: Path) -> list[str]:
    """Where `python -m eval answers` finds a split."""
    flags = ["--questions", str(data / files["questions"]), "--pictures", str(data / files["pictures"])]
    if files["annotations"]:
        flags += ["--annotations", str(data / files["annotations"])]
    return flags + (["--naming", files["naming"]] if files["naming"] else [])


def _example_questions(run: Path) -> list[str]:
    path = run / EXAMPLE_QUESTIONS
    examples: list[str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return examples


def photos_in(folder: Path, preprocessing: Preprocessing, count: int) -> list[NDArray[np.uint8]]:
    """The encoder's input of evenly spaced photos of a folder."""
    names = photo_files(folder)
    return [load_pixels(path, preprocessing) for path in names[:: max(1, len(names) // count)][:count]]


def main() -> int:
    """Parse the command line, write the bundle, score it."""
    parser = argparse.ArgumentParser(prog="python -m captioner.model.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--answers", type=Path, help="another run, on the same encoder, whose answerer goes along")
    parser.add_argument("--data", type=Path, help="where the recipe's files are now (default: where training was)")
    parser.add_argument("--answers-data", type=Path, help="the same of --answers")
    parser.add_argument("--name", help="the bundle's name (default: the run's folder)")
    parser.add_argument("--length-power", type=float, help="length rule of the bundle (default: the recipe's)")
    parser.add_argument(
        "--precision", choices=["both", "int8"], default="both", help="of the graphs in the bundle; default: both"
    )
    parser.add_argument("--skip-scores", action="store_true", help="leave out the BLEU of each precision")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        network, lexicon, settings = network_of_run(args.run)
        recipe = settings["recipe"]
        data = answers_data = args.data or Path(settings["data"])
        questions, asked = _example_questions(args.run), recipe.get("validation_questions")
        if args.answers is not None:
            answers_network, answers_lexicon, answers_settings = network_of_run(args.answers)
            network, lexicon = joined(network, lexicon, answers_network, answers_lexicon)
            questions, asked = _example_questions(args.answers), answers_settings["recipe"]["validation_questions"]
            answers_data = args.answers_data or Path(answers_settings["data"])
        search = SearchOptions(**recipe["search"])
        if args.length_power is not None:
            search = SearchOptions(**{**recipe["search"], "length_power": args.length_power})
        pictures = (recipe["train"] or recipe["train_questions"][0])["pictures"]
        photos = photos_in(data / pictures, network.config.preprocessing, CALIBRATION_PHOTOS)
        write_bundle(network, lexicon, args.name or args.run.resolve().name, search, photos, args.out, questions)
        if not args.skip_scores:
            scores = json.loads((args.out / "scores.json").read_text())
            if files := recipe["validation"]:
                split = ["--split", files["split"]] if files["split"] else []
                where = ["--annotations", str(data / files["annotations"]), "--pictures", str(data / files["pictures"])]
                scores["precisions"] = score_precisions(args.out, "captions", [*where, "--no-java", *split])
            if asked:
                where = _question_flags(asked, answers_data)
                scores["answer_precisions"] = score_precisions(args.out, "answers", where)
            (args.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
            seal(args.out)
        if args.precision == "int8":
            keep_int8(args.out)
    except (ValueError, ParityError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(f"{args.out}: {json.dumps(asdict(search))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
