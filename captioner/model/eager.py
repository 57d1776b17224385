"""python -m captioner.model.eager --bundle BUNDLE --photo PHOTO: time a bundle's own model in eager torch.

The peer that `python -m eval speed` compares with: same weights, same photo, same search, no ONNX. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from captioner.bundle import Bundle
from captioner.config import SearchOptions
from captioner.model.network import Network
from captioner.preprocess import load_pixels

WARM_UP = 3


def main() -> None:
    """Time decode, encode and search of one photo; medians in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m captioner.model.eager", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: the bundle's weights.safetensors")
    parser.add_argument("--beam-size", type=int, default=7)
    parser.add_argument("--max-words", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bundle = Bundle.open(args.bundle)
    weights = args.weights or bundle.folder / "weights.safetensors"
    network = Network.load(bundle.model, weights, **bundle.lexicon.sizes)
    options = SearchOptions(args.beam_size, args.max_words, 1, bundle.search.length_power)
    photo = args.photo.read_bytes()
    times: list[tuple[float, float, float]] = []
    for _ in range(WARM_UP + args.repeats):
        with torch.inference_mode():
            start = time.perf_counter()
            pixels_BHW3 = torch.from_numpy(load_pixels(photo, bundle.model.preprocessing))[None]
            decoded = time.perf_counter()
            grid_BPC = network.encoder(pixels_BHW3)
            encoded = time.perf_counter()
            network.find(grid_BPC, options)
            end = time.perf_counter()
        times.append((encoded - decoded, end - encoded, end - start))
    encode, search, total = (1000 * statistics.median(stage) for stage in zip(*times[WARM_UP:], strict=True))
    json.dump({"encode_ms": encode, "search_ms": search, "total_ms": total}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
