"""What the encoder makes of every picture, kept in a memory map: a frozen encoder runs once per picture and view.

Shapes: N pictures, B pictures of a block, H x W pixels, P grid cells, C channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.atomic import write_json
from captioner.config import Preprocessing
from captioner.images import BadImage, read_photo
from captioner.model.encoder import Encoder
from captioner.preprocess import resize
from eval.coco import CocoPicture
from training.views import is_crop, view_of

log = logging.getLogger(__name__)
BLOCK = 32
"""Pictures between two marks of progress."""

Compute = Callable[[NDArray[np.uint8]], NDArray[np.generic]]
"""uint8 pixels [B, H, W, 3] to one row a picture."""


def grids_of(
    encoder: Encoder, preprocessing: Preprocessing, pictures: Sequence[CocoPicture], view: int, folder: Path
) -> PictureCache:
    """The frozen encoder's grids [N, P, C] in half precision."""
    device = encoder.mean_3.device

    @torch.inference_mode()
    def compute(pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.generic]:
        return encoder(torch.from_numpy(pixels_BHW3).to(device)).half().cpu().numpy()

    shape = (encoder.rows * encoder.columns, encoder.channels)
    cache = PictureCache(folder, pictures, view, encoder_digest(encoder, preprocessing))
    return cache.open(preprocessing, shape, "float16", compute)


def encoder_digest(encoder: Encoder, preprocessing: Preprocessing) -> str:
    """Another encoder, or another size of its pictures, has another digest."""
    digest = hashlib.sha256(repr(preprocessing).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def pixels_of(preprocessing: Preprocessing, pictures: Sequence[CocoPicture], view: int, folder: Path) -> PictureCache:
    """The encoder's input [N, H, W, 3] in bytes, for an encoder that is still being trained."""
    shape = (preprocessing.height, preprocessing.width, 3)
    cache = PictureCache(folder, pictures, view, repr(preprocessing))
    return cache.open(preprocessing, shape, "uint8", lambda pixels_BHW3: pixels_BHW3)


class PictureCache:
    """Rows of one view of a list of pictures, on disk; built where it is missing, continued where it was cut off.

    `rows` holds a row for every picture in the order given; `skipped` says by position why a picture has none (its
    row is zeros).
    """

    def __init__(self, folder: Path, pictures: Sequence[CocoPicture], view: int, maker: str):
        """`maker` names what computes the rows (a hash of its weights): another maker has another file."""
        paths = [[picture.image_id, str(picture.path.resolve())] for picture in pictures]
        key = hashlib.sha256(json.dumps([paths, view, maker]).encode()).hexdigest()[:16]
        self.pictures, self.view = pictures, view
        self.data, self.index = folder / f"{key}.rows", folder / f"{key}.json"
        self.skipped: dict[int, str] = {}
        self.rows: NDArray[np.generic]

    def open(self, preprocessing: Preprocessing, shape: tuple[int, ...], dtype: str, compute: Compute) -> PictureCache:
        """Make what is not there yet and try skipped pictures again; ValueError if no picture at all can be read."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        total, done = len(self.pictures), 0
        if self.index.exists() and self.data.exists():
            index = json.loads(self.index.read_text())
            done, self.skipped = index["done"], {int(key): why for key, why in index["skipped"].items()}
        if not done and not any(picture.path.is_file() for picture in self.pictures):
            raise ValueError(f"none of the {total} pictures is there; the first: {self.pictures[0].path}")
        again = sorted(self.skipped)
        # Never in one block: a row must not depend on whether its block was cut off.
        parts = [again, list(range(done, total))]
        blocks = [part[n : n + BLOCK] for part in parts for n in range(0, len(part), BLOCK)]
        if blocks:
            rows = np.memmap(self.data, dtype, "r+" if done else "w+", shape=(total, *shape))
            todo = sum(map(len, blocks))
            bar = tqdm(total=todo, desc=f"features of view {self.view}", unit="pictures", leave=False)
            with bar, ThreadPoolExecutor(2) as pool:
                ahead = [self._read(pool, blocks[0], preprocessing)]
                for n, block in enumerate(blocks):
                    read = [future.result() for future in ahead.pop()]
                    ahead += [self._read(pool, later, preprocessing) for later in blocks[n + 1 : n + 2]]
                    rows[block] = compute(np.stack([pixels_HW3 for pixels_HW3, _ in read]))
                    rows.flush()
                    for position, (_, why) in zip(block, read, strict=True):
                        self.skipped.pop(position, None)
                        if why:
                            self.skipped[position] = why
                    done = max(done, block[-1] + 1)
                    write_json(self.index, {"done": done, "skipped": self.skipped})
                    bar.update(len(block))
        if len(self.skipped) == total:
            raise ValueError(
                f"none of the {total} pictures can be read; the first: {next(iter(self.skipped.values()))}"
            )
        if self.skipped and self.view == 0:
            log.warning("%d of %d pictures are skipped, listed in %s", len(self.skipped), total, self.index)
        self.rows = np.memmap(self.data, dtype, "r", shape=(total, *shape))
        return self

    def _read(
        self, pool: ThreadPoolExecutor, block: Sequence[int], preprocessing: Preprocessing
    ) -> list[Future[tuple[NDArray[np.uint8], str]]]:
        """Pixels of each picture, or zeros and why there are none."""

        def one(picture: CocoPicture) -> tuple[NDArray[np.uint8], str]:
            try:
                # As load_pixels for the whole photo; a crop needs all there is.
                needed = None if is_crop(self.view) else (preprocessing.height, preprocessing.width)
                rgb_HW3 = read_photo(picture.path, needed=needed)
                return resize(view_of(rgb_HW3, self.view, picture.image_id), preprocessing), ""
            except (BadImage, OSError) as e:
                blank_HW3 = np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)
                return blank_HW3, f"{picture.path.name}: {e}"

        return [pool.submit(one, self.pictures[n]) for n in block]
