"""What the encoder makes of every picture, kept in a memory map: a frozen encoder runs once per picture and view.

Shapes: N pictures, B pictures of a block, H x W pixels, P grid cells, C channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from training.views import view_of

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
    digest = hashlib.sha256(repr(preprocessing).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())

    @torch.inference_mode()
    def compute(pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.generic]:
        return encoder(torch.from_numpy(pixels_BHW3).to(device)).half().cpu().numpy()

    shape = (encoder.rows * encoder.columns, encoder.channels)
    cache = PictureCache(folder, pictures, view, digest.hexdigest())
    return cache.open(preprocessing, shape, "float16", compute)


def pixels_of(preprocessing: Preprocessing, pictures: Sequence[CocoPicture], view: int, folder: Path) -> PictureCache:
    """The encoder's input [N, H, W, 3] in bytes, for an encoder that is still being trained."""
    shape = (preprocessing.height, preprocessing.width, 3)
    cache = PictureCache(folder, pictures, view, repr(preprocessing))
    return cache.open(preprocessing, shape, "uint8", lambda pixels_BHW3: pixels_BHW3)


class PictureCache:
    """Rows of one view of a list of pictures, on disk; built where it is missing, continued where it was cut off.

    `rows` holds a row for every picture in the order given; `skipped` says by image id why a picture has none (its
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
        """Make what is not there yet, with a progress bar; raises ValueError if no picture at all can be read."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        total, done = len(self.pictures), 0
        if self.index.exists() and self.data.exists():
            index = json.loads(self.index.read_text())
            done, self.skipped = index["done"], {int(key): why for key, why in index["skipped"].items()}
        mode = "r+" if done else "w+"
        if not done and not any(picture.path.is_file() for picture in self.pictures):
            raise ValueError(f"none of the {total} pictures is there; the first: {self.pictures[0].path}")
        if done < total:
            rows = np.memmap(self.data, dtype, mode, shape=(total, *shape))
            bar = tqdm(total=total, initial=done, desc=f"features of view {self.view}", unit="pictures", leave=False)
            with bar, ThreadPoolExecutor(2) as pool:
                blocks = range(done, total, BLOCK)
                ahead = [self._pixels(pool, start, preprocessing) for start in blocks[:1]]
                for n, start in enumerate(blocks):
                    pixels_BHW3 = np.stack([future.result() for future in ahead.pop()])
                    ahead += [self._pixels(pool, later, preprocessing) for later in blocks[n + 1 : n + 2]]
                    rows[start : start + len(pixels_BHW3)] = compute(pixels_BHW3)
                    rows.flush()
                    write_json(self.index, {"done": start + len(pixels_BHW3), "skipped": dict(self.skipped)})
                    bar.update(len(pixels_BHW3))
        if len(self.skipped) == total:
            self.index.unlink()  # so that they are tried again
            raise ValueError(
                f"none of the {total} pictures can be read; the first: {next(iter(self.skipped.values()))}"
            )
        if self.skipped and self.view == 0:
            log.warning("%d of %d pictures are skipped, listed in %s", len(self.skipped), total, self.index)
        self.rows = np.memmap(self.data, dtype, "r", shape=(total, *shape))
        return self

    def _pixels(self, pool: ThreadPoolExecutor, start: int, preprocessing: Preprocessing):  # type: ignore[no-untyped-def]
        def one(picture: CocoPicture) -> NDArray[np.uint8]:
            try:
                return resize(view_of(read_photo(picture.path), self.view, picture.image_id), preprocessing)
            except (BadImage, OSError) as e:
                self.skipped[picture.image_id] = f"{picture.path.name}: {e}"
                return np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)

        return [pool.submit(one, picture) for picture in self.pictures[start : start + BLOCK]]
