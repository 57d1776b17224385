"""python -m captioner.model.export RUN --out BUNDLE: make the bundle of a training run.

Writes the fp32 graphs, compares them with torch on real photos and stops at a difference; then the int8 graphs,
calibrated on training photos; then scores.json with the BLEU of every pair of precisions on the validation split.
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

from captioner.bundle import FORMAT_VERSION, seal
from captioner.config import ModelConfig, SearchOptions
from captioner.model import graphs
from captioner.model.network import CaptionNetwork
from captioner.model.parity import ParityError, compare
from captioner.model.quantize import quantize_decoder, quantize_encoder
from captioner.preprocess import load_pixels
from captioner.vocabulary import Vocabulary

log = logging.getLogger(__name__)
CALIBRATION_PHOTOS = 100
PARITY_PHOTOS = 8
PRECISIONS = {"fp32": "", "int8": ".int8"}


def write_bundle(
    network: CaptionNetwork,
    vocabulary: Vocabulary,
    name: str,
    search: SearchOptions,
    photos: Sequence[NDArray[np.uint8]],
    out: Path,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Fill the folder `out` with a sealed bundle; photos uint8 [H, W, 3] serve for comparison and calibration.

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
    vocabulary.save(out / "vocabulary.json")
    network.save(out / "weights.safetensors")
    log.info("writing fp32 graphs")
    graphs.write_encoder(network, out / graphs.ENCODER)
    graphs.write_captioner(network, out / graphs.CAPTIONER)
    differences = compare(network, out, photos[:PARITY_PHOTOS])
    for difference in differences:
        log.info("equal to torch: %s", difference)
    log.info("writing int8 graphs, calibrated on %d photos", len(photos))
    quantize_encoder(out / graphs.ENCODER, out / "encoder.int8.onnx", photos)
    quantize_decoder(out / graphs.CAPTIONER, out / "captioner.int8.onnx")
    parity = {
        "cases": len(differences),
        "largest_grid_difference": max(d.grid for d in differences),
        "largest_score_difference": max(d.scores for d in differences),
        "largest_attention_difference": max(d.attention for d in differences),
    }
    (out / "scores.json").write_text(json.dumps({"torch_against_onnxruntime": parity, **(scores or {})}, indent=1))
    seal(out)


def score_precisions(bundle: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """BLEU of every pair of encoder and decoder precision: `python -m eval captions` with these further arguments."""
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for encoder, encoder_suffix in PRECISIONS.items():
            for decoder, decoder_suffix in PRECISIONS.items():
                variant = Path(folder) / f"{encoder}-{decoder}"
                variant.mkdir()
                for name in ("config.json", "vocabulary.json"):
                    shutil.copy(bundle / name, variant)
                shutil.copy(bundle / f"encoder{encoder_suffix}.onnx", variant / graphs.ENCODER)
                shutil.copy(bundle / f"captioner{decoder_suffix}.onnx", variant / graphs.CAPTIONER)
                seal(variant)
                out = variant / "eval"
                command = [
                    sys.executable,
                    "-m",
                    "eval",
                    "captions",
                    "--bundle",
                    str(variant),
                    "--out",
                    str(out),
                    "--no-java",
                ]
                subprocess.run([*command, *arguments], check=True)
                scores = json.loads((out / "scores.json").read_text())
                table[f"encoder {encoder}, decoder {decoder}"] = scores
    return table


def network_of_run(run: Path) -> tuple[CaptionNetwork, Vocabulary, dict[str, Any]]:
    """The best weights of a training run, its vocabulary and its run.json; ValueError names what is missing."""
    for name in ("run.json", "vocabulary.json", "best.safetensors"):
        if not (run / name).is_file():
            raise ValueError(f"{run} is not a training run with a finished epoch: {name} is missing")
    settings = json.loads((run / "run.json").read_text())
    vocabulary = Vocabulary.load(run / "vocabulary.json")
    config = ModelConfig.from_dict(settings["recipe"]["model"])
    return CaptionNetwork.load(config, len(vocabulary), run / "best.safetensors"), vocabulary, settings


def photos_in(folder: Path, config: ModelConfig, count: int) -> list[NDArray[np.uint8]]:
    """The encoder's input of evenly spaced photos of a folder."""
    names = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not names:
        raise ValueError(f"no photo in {folder}")
    return [load_pixels(path, config.preprocessing) for path in names[:: max(1, len(names) // count)][:count]]


def main() -> int:
    """Parse the command line, write the bundle, score it."""
    parser = argparse.ArgumentParser(prog="python -m captioner.model.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--data", type=Path, help="where the recipe's files are now (default: where training was)")
    parser.add_argument("--name", help="the bundle's name (default: the run's folder)")
    parser.add_argument("--length-power", type=float, help="length rule of the bundle (default: the recipe's)")
    parser.add_argument("--skip-scores", action="store_true", help="leave out the BLEU of each precision")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        network, vocabulary, settings = network_of_run(args.run)
        recipe = settings["recipe"]
        data = args.data or Path(settings["data"])
        search = SearchOptions(**recipe["search"])
        if args.length_power is not None:
            search = SearchOptions(**{**recipe["search"], "length_power": args.length_power})
        photos = photos_in(data / recipe["train"]["pictures"], network.config, CALIBRATION_PHOTOS)
        write_bundle(network, vocabulary, args.name or args.run.resolve().name, search, photos, args.out)
        if not args.skip_scores:
            files = recipe["validation"]
            split = ["--split", files["split"]] if files["split"] else []
            where = ["--annotations", str(data / files["annotations"]), "--pictures", str(data / files["pictures"])]
            scores = json.loads((args.out / "scores.json").read_text())
            scores["precisions"] = score_precisions(args.out, [*where, *split])
            (args.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
            seal(args.out)
    except (ValueError, ParityError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(f"{args.out}: {json.dumps(asdict(search))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
