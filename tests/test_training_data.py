"""Batches on paper: which pictures, in which order, and how their captions are laid out."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.vocabulary import END, MARKS, START, UNKNOWN, Vocabulary
from eval.coco import CocoPicture
from training.data import PictureSet, TrainingBatches

VOCABULARY = Vocabulary([*MARKS, "a", "dog", "runs", "fast"])
A, DOG, RUNS, FAST = range(4, 8)


def picture_set(captions, skipped=(), views=1, dtype=np.uint8):
    """Picture n has id 10 + n, and its row of view v is filled with n + 100 v."""
    pictures = [CocoPicture(10 + n, Path(f"{n}.png"), tuple(own)) for n, own in enumerate(captions)]
    rows_N113 = np.broadcast_to(np.arange(len(captions)).reshape(-1, 1, 1, 1), (len(captions), 1, 1, 3))
    why = dict.fromkeys(skipped, "broken")
    caches = [SimpleNamespace(rows=(rows_N113 + 100 * view).astype(dtype), skipped=why) for view in range(views)]
    return PictureSet(pictures, caches)


def batches(images, batch_pictures=3, longest=30, seed=0, process=0, processes=1):
    return TrainingBatches(images, VOCABULARY, batch_pictures, longest, seed, process, processes)


def drawn(batch):
    """Which rows a batch has, in order."""
    return batch.images_B[:, 0, 0, 0].tolist()


def epoch(of, number, first=0):
    return [drawn(batch) for batch in of.epoch(number, first)]


def test_layout_of_a_batch():
    images = picture_set([["A dog.", "a dog runs"], ["A cat runs fast!"], ["dog", "", "a"]])
    (batch,) = batches(images).epoch(0)
    assert drawn(batch) == [1, 0, 2]  # by the longest caption
    nothing = [0, 0, 0, 0, 0, 0]
    assert batch.words_BKT.tolist() == [
        [[START, A, UNKNOWN, RUNS, FAST, END], nothing, nothing],
        [[START, A, DOG, RUNS, END, 0], [START, A, DOG, END, 0, 0], nothing],
        [[START, DOG, END, 0, 0, 0], [START, A, END, 0, 0, 0], [START, END, 0, 0, 0, 0]],
    ]
    assert batch.lengths_BK.tolist() == [[5, 0, 0], [4, 3, 0], [2, 2, 1]]
    assert batch.images_B.dtype == torch.uint8


def test_long_captions_are_cut():
    (batch,) = batches(picture_set([["a dog runs fast"]]), longest=2).epoch(0)
    assert batch.words_BKT.tolist() == [[[START, A, DOG, END]]]
    assert batch.lengths_BK.tolist() == [[3]]


def test_grids_become_32_bits():
    (batch,) = batches(picture_set([["a"]], dtype=np.float16)).epoch(0)
    assert batch.images_B.dtype == torch.float32


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_every_picture_at_most_once_an_epoch(count, batch_pictures, seed, number):
    of = batches(picture_set([["a"]] * count), batch_pictures, seed=seed)
    found = epoch(of, number)
    seen = [n for batch in found for n in batch]
    assert len(set(seen)) == len(seen)
    assert len(found) == len(of) == max(1, count // batch_pictures)
    assert {len(batch) for batch in found} == {min(count, batch_pictures)}


def test_the_order_comes_from_seed_and_epoch_alone():
    images = picture_set([["a"]] * 30, views=3)
    of = batches(images)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    second = epoch(of, 1)
    assert epoch(of, 0) != second  # asked for in any order
    assert epoch(batches(images), 1) == second
    assert epoch(batches(images, seed=1), 1) != second
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(0, 10))
def test_first_goes_on_in_the_same_order(number, first):
    of = batches(picture_set([["a"]] * 31, views=2))
    assert epoch(of, number, first) == epoch(of, number)[first:]


@settings(deadline=None)
@given(st.integers(6, 40), st.integers(4, 6), st.integers(2, 4), st.integers(0, 3))
def test_processes_share_each_batch_without_overlap(count, batch_pictures, processes, number):
    images = picture_set([["a"]] * count, views=2)
    alone = epoch(batches(images, batch_pictures), number)
    shares = [epoch(batches(images, batch_pictures, process=p, processes=processes), number) for p in range(processes)]
    assert {len(share) for share in shares} == {len(alone)}
    for n, batch in enumerate(alone):
        parts = [share[n] for share in shares]
        assert sorted(chain(*parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_unreadable_pictures_are_left_out():
    images = picture_set([["a"]] * 6, skipped=[1, 4])
    assert images.usable == [0, 2, 3, 5]
    assert sorted(chain(*epoch(batches(images, 2), 0))) == [0, 2, 3, 5]


def test_views_are_mixed():
    found = list(chain(*epoch(batches(picture_set([["a"]] * 90, views=2)), 0)))
    assert 20 < sum(n >= 100 for n in found) < 70
    assert len({n % 100 for n in found}) == 90


def test_too_few_pictures_for_the_processes():
    with pytest.raises(ValueError, match="batch_pictures must be at least the 4 processes, got 3"):
        batches(picture_set([["a"]] * 9), 3, processes=4)
    with pytest.raises(ValueError, match="the 2 processes need a picture each, got 1"):
        batches(picture_set([["a"]] * 2, skipped=[0]), 3, processes=2)
