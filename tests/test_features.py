"""Rows of pictures on disk: built once, continued after an interruption, broken pictures left out."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.config import Preprocessing
from captioner.model.encoder import Encoder
from captioner.preprocess import load_pixels
from eval.coco import CocoPicture
from training.features import BLOCK, PictureCache, grids_of, pixels_of
from training.views import SMALLEST_CROP, view_of

SIZE = Preprocessing(16, 16)
SHAPE = (16, 16, 3)


def make_pictures(folder, count, side=16):
    folder.mkdir(exist_ok=True)
    pixels_NHW3 = np.random.default_rng(3).integers(0, 256, (count, side, side, 3), np.uint8)
    for n, pixels_HW3 in enumerate(pixels_NHW3):
        Image.fromarray(pixels_HW3).save(folder / f"{n}.png")
    return [CocoPicture(100 + n, folder / f"{n}.png", ("A dog.",)) for n in range(count)]


class Counting:
    """Hands the pixels on and counts its calls; call number `fails` raises."""

    def __init__(self, fails=None):
        self.calls, self.fails = 0, fails

    def __call__(self, pixels_BHW3):
        self.calls += 1
        if self.calls == self.fails:
            raise RuntimeError("stopped")
        return pixels_BHW3


def open_cache(pictures, folder, compute, view=0, maker="maker"):
    return PictureCache(folder, pictures, view, maker).open(SIZE, SHAPE, "uint8", compute)


def test_rows_are_the_pictures_in_order_and_made_once(tmp_path):
    pictures = make_pictures(tmp_path / "p", 3)
    first, second = Counting(), Counting()
    cache = open_cache(pictures, tmp_path, first)
    assert np.array_equal(cache.rows, [np.asarray(Image.open(p.path)) for p in pictures])
    assert cache.skipped == {}
    assert np.array_equal(open_cache(pictures, tmp_path, second).rows, cache.rows)
    assert (first.calls, second.calls) == (1, 0)


@pytest.mark.parametrize(("fails", "left"), [(1, 3), (2, 2), (3, 1)])
def test_continues_where_it_was_cut_off(tmp_path, fails, left):
    pictures = make_pictures(tmp_path / "p", 2 * BLOCK + 5)
    pictures[BLOCK + 1].path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="stopped"):
        open_cache(pictures, tmp_path / "cut", Counting(fails))
    again, straight = Counting(), Counting()
    cut = open_cache(pictures, tmp_path / "cut", again)
    whole = open_cache(pictures, tmp_path / "whole", straight)
    assert again.calls == left + (fails == 3)  # the broken picture of the second block is tried once more
    assert straight.calls == 3
    assert cut.data.read_bytes() == whole.data.read_bytes()
    assert cut.index.read_text() == whole.index.read_text()
    assert cut.skipped == whole.skipped


def test_broken_and_missing_pictures_are_left_out_with_a_warning(tmp_path, caplog):
    pictures = make_pictures(tmp_path / "p", 5)
    pictures[1].path.write_bytes(pictures[1].path.read_bytes()[:60])
    pictures[3].path.unlink()
    for _ in range(2):  # made, then found
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cache = open_cache(pictures, tmp_path, Counting())
        assert set(cache.skipped) == {1, 3}
        assert "1.png" in cache.skipped[1]
        assert "3.png" in cache.skipped[3]
        assert [record.getMessage() for record in caplog.records] == [
            f"2 of 5 pictures are skipped, listed in {cache.index}"
        ]
        assert not cache.rows[[1, 3]].any()
        assert cache.rows[[0, 2, 4]].any(axis=(1, 2, 3)).all()


def test_no_picture_at_all_is_an_error_until_they_are_there(tmp_path):
    pictures = [CocoPicture(n, tmp_path / "p" / f"{n}.png", ("A dog.",)) for n in range(2)]
    with pytest.raises(ValueError, match=r"none of the 2 pictures is there; the first: .*0\.png"):
        open_cache(pictures, tmp_path, Counting())
    make_pictures(tmp_path / "p", 2)
    good = [picture.path.read_bytes() for picture in pictures]
    for picture in pictures:
        picture.path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of the 2 pictures can be read; the first: 0\.png"):
        open_cache(pictures, tmp_path, Counting())
    for picture, data in zip(pictures, good, strict=True):
        picture.path.write_bytes(data)
    assert open_cache(pictures, tmp_path, Counting()).rows.any()


def test_a_mended_picture_is_read_the_next_time(tmp_path):
    make_pictures(tmp_path / "p", 3)
    pictures = [CocoPicture(n, tmp_path / "p" / f"{n}.png", ("A dog.",)) for n in range(3)]
    whole = pictures[1].path.read_bytes()
    pictures[1].path.write_bytes(b"no picture")
    assert list(open_cache(pictures, tmp_path, Counting()).skipped) == [1]
    pictures[1].path.write_bytes(whole)
    cache = open_cache(pictures, tmp_path, Counting())
    assert not cache.skipped
    assert cache.rows[1].any()


def test_another_view_maker_or_list_has_another_file(tmp_path):
    pictures = make_pictures(tmp_path / "p", 3)
    caches = [PictureCache(tmp_path, pictures, view, maker) for view, maker in [(0, "a"), (1, "a"), (0, "b")]]
    caches.append(PictureCache(tmp_path, pictures[::-1], 0, "a"))
    assert len({cache.data for cache in caches}) == 4


def test_grids_are_the_encoders_in_half_precision(tmp_path):
    size = Preprocessing(64, 64)
    pictures = make_pictures(tmp_path / "p", 3, side=80)
    torch.manual_seed(1)
    encoder = Encoder("alexnet", size, stage="4").eval()
    cache = grids_of(encoder, size, pictures, 0, tmp_path)
    pixels_NHW3 = torch.from_numpy(np.stack([load_pixels(picture.path, size) for picture in pictures]))
    with torch.no_grad():
        grid_NPC = encoder(pixels_NHW3).numpy()
    assert cache.rows.dtype == np.float16
    np.testing.assert_allclose(cache.rows, grid_NPC, rtol=1e-3, atol=1e-4)
    assert grids_of(encoder, size, pictures, 0, tmp_path).data == cache.data
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3  # one weight of the first layer
    assert grids_of(encoder, size, pictures, 0, tmp_path).data != cache.data


def test_pixels_of_a_view_are_mirrored_before_they_are_resized(tmp_path):
    pictures = make_pictures(tmp_path / "p", 2, side=32)
    plain, mirrored = (pixels_of(SIZE, pictures, view, tmp_path).rows for view in (0, 1))
    assert plain.dtype == np.uint8
    assert np.array_equal(mirrored, plain[:, :, ::-1])


shapes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@settings(deadline=None)
@given(shapes, st.integers(0, 10**6))
def test_view_0_is_the_photo_and_view_1_its_mirror_image(shape, image_id):
    rgb_HW3 = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert view_of(rgb_HW3, 0, image_id) is rgb_HW3
    assert np.array_equal(view_of(rgb_HW3, 1, image_id)[:, ::-1], rgb_HW3)


@settings(deadline=None)
@given(shapes, st.integers(2, 9), st.integers(0, 10**6))
def test_further_views_are_crops_of_at_least_half_the_area(shape, view, image_id):
    height, width = shape
    rows_HW, columns_HW = np.indices(shape)
    places_HW3 = np.stack([rows_HW, columns_HW, rows_HW], axis=2)
    crop = view_of(places_HW3, view, image_id)
    assert np.array_equal(crop, view_of(places_HW3, view, image_id))
    rows, columns = crop.shape[:2]
    assert (rows + 0.5) * (columns + 0.5) >= SMALLEST_CROP * height * width  # sides are rounded to pixels
    # A block of neighbours: rows go up by one, columns too, or down where the view is mirrored.
    assert (np.diff(crop[:, :, 0], axis=0) == 1).all()
    assert (np.diff(crop[:, :, 1], axis=1) == (-1 if view % 2 else 1)).all()


def test_crops_differ_by_picture_and_view():
    places_HW3 = np.indices((60, 80)).transpose(1, 2, 0)[:, :, [0, 1, 0]]
    crops = [view_of(places_HW3, view, image_id) for view, image_id in [(2, 1), (4, 1), (2, 2)]]
    assert len({(*crop.shape, *crop[0, 0]) for crop in crops}) == 3
