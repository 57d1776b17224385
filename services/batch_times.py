"""What a picture costs in batches of several sizes, on this machine: what to set --max-batch to.

    python -m services.batch_times --bundle B --pictures FOLDER

Milliseconds a picture of the encoder and of the search with k = 7: the lower quintile over rounds in which the sizes
take turns, because other programs slow some of them down.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

import numpy as np

from captioner import Captioner

SIZES = (1, 2, 4, 8, 16, 32)


def batch_times(captioner: Captioner, pictures: Sequence[Path], rounds: int) -> dict[int, tuple[float, float]]:
    """Size of a batch -> seconds a picture of encoder and search."""
    options = captioner.options(beam_size=7)
    pixels_BHW3 = np.stack([captioner.pixels(path) for path in islice(cycle(pictures), max(SIZES))])
    captioner.search(captioner.encode(pixels_BHW3), options)
    took: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    for shift in range(rounds):
        for size, times in took.items():
            batch_BHW3 = np.roll(pixels_BHW3, 7 * shift, axis=0)[:size]
            begin = perf_counter()
            grid_BPC = captioner.encode(batch_BHW3)
            encoded = perf_counter()
            captioner.search(grid_BPC, options)
            times.append(((encoded - begin) / size, (perf_counter() - encoded) / size))
    quintiles = {size: np.quantile(times, 0.2, axis=0) for size, times in took.items()}
    return {size: (float(encode), float(search)) for size, (encode, search) in quintiles.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m services.batch_times", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the model")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEG files; the first 32 are used")
    parser.add_argument("--rounds", type=int, default=20, help="(%(default)s)")
    given = parser.parse_args(arguments)
    pictures = sorted(given.pictures.glob("*.jpg"))
    if not pictures:
        parser.error(f"no JPEG files in {given.pictures}")
    print("batch  encode  search  ms a picture")
    for size, seconds in batch_times(Captioner.load(given.bundle), pictures, given.rounds).items():
        print(f"{size:5d}  {1000 * seconds[0]:6.1f}  {1000 * seconds[1]:6.1f}")


if __name__ == "__main__":
    main()
