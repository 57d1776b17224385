"""Augmented views of photos."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.views import drawn


def photos(seed, count=3):
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 24, 3), np.uint8)


@given(st.integers(0, 2**31), st.floats(0.05, 1), st.floats(0, 1), st.sampled_from([16, 24]))
def test_views_are_pictures_and_the_same_for_the_same_random_numbers(seed, smallest, mixed, size):
    one, two = (drawn(photos(seed), size, np.random.default_rng(seed), smallest, mixed) for _ in range(2))
    assert (one.shape, one.dtype) == ((3, size, size, 3), np.uint8)
    assert np.array_equal(one, two)


def test_views_are_drawn_anew():
    random = np.random.default_rng(0)
    one, two = (drawn(photos(0), 24, random, 0.3, 0.5) for _ in range(2))
    assert not np.array_equal(one, two)


class Middle(np.random.Generator):
    """Draws the middle of every range; what has a chance of one half does not happen, and nothing changes places."""

    def uniform(self, low, high, size=None):
        return (low + high) / 2 if size is None else np.full(size, (low + high) / 2)

    def random(self, size=None):
        return 0.5 if size is None else np.full(size, 0.5)

    def permutation(self, count):
        return np.arange(count)[::-1]


def test_a_view_of_all_in_its_own_colours_is_the_picture():
    pixels_BHW3 = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    random = Middle(np.random.PCG64(0))
    assert np.array_equal(drawn(pixels_BHW3, 24, random, 1, 0), pixels_BHW3)
    mixed_BHW3 = drawn(pixels_BHW3, 24, random, 1, 1)  # the share of the other one is a quarter
    expected_BHW3 = 0.75 * pixels_BHW3 + 0.25 * pixels_BHW3[::-1]
    assert np.abs(mixed_BHW3 - expected_BHW3).max() <= 1


def test_a_view_shows_a_part_of_the_picture_upright():
    """A picture whose colours are its places: a view's tell where it was cut."""
    rows, columns = np.mgrid[0:64, 0:64]
    picture_HW3 = np.stack([64 + 2 * rows, 64 + 2 * columns, np.full_like(rows, 128)], axis=2).astype(np.uint8)
    views_BHW3 = drawn(np.stack([picture_HW3] * 50), 32, np.random.default_rng(0), 0.3, 0).astype(int)
    down_B = views_BHW3[:, -1, 16, 0] - views_BHW3[:, 0, 16, 0]
    across_B = views_BHW3[:, 16, -1, 1] - views_BHW3[:, 16, 0, 1]
    assert (down_B > 0).all()
    assert 10 < (across_B < 0).sum() < 40
    assert (down_B < 100).any()
    assert (np.abs(across_B) < 100).any()
