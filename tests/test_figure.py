"""Figures hold every panel for any photo and any number of words, and are bright where the attention is."""

import numpy as np
import pytest
from PIL import Image

from captioner.figure import (
    AMBER,
    BARS_WIDTH,
    EDGE,
    PAPER,
    _columns,
    _cut,
    _font,
    _lit,
    _panel_size,
    answer_figure,
    attention_figure,
)
from captioner.results import Answer, Answered, Caption, Word


def caption(words: list[str], rows: int = 7, columns: int = 7) -> Caption:
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(rows * columns), len(words)).astype(np.float32).reshape(-1, rows, columns)
    made = tuple(Word(text, -0.5, one) for text, one in zip(words, maps, strict=True))
    return Caption(" ".join(words), -1.0, -1.0, made)


def grey(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 120, np.uint8)


def answered(*probabilities: float, text: str = "yes", unknown: tuple[str, ...] = ()) -> Answered:
    one = np.zeros((7, 7), np.float32)
    one[1, 5] = 1.0
    return Answered(tuple(Answer(text, p) for p in probabilities), one, unknown)


@pytest.mark.parametrize("words", [0, 1, 2, 5, 11, 20, 50])
def test_any_number_of_words(words):
    figure = attention_figure(grey(160, 120), caption(["word"] * words))
    assert figure.mode == "RGB"
    assert max(figure.size) < 4000


@pytest.mark.parametrize("size", [(8, 8), (640, 480), (480, 640), (2000, 100), (100, 2000), (3000, 40)])
def test_any_shape_of_photo(size):
    figure = np.asarray(attention_figure(grey(*size), caption(["a", "man"])))
    assert max(figure.shape) < 2500
    assert (figure[[0, -1]] == PAPER).all()  # the margin is free on every side
    assert (figure[:, [0, -1]] == PAPER).all()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1600, 100), (100, 1600), (10, 10)])
def test_the_photo_keeps_its_shape(size):
    width, height = _panel_size(*size)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.03)


def test_every_word_has_a_panel():
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[:] = (0, 255, 0)
    figure = np.asarray(attention_figure(photo, caption(["a", "b", "c", "d"])))
    edges = (figure == EDGE).all(axis=2).sum()
    width, height = _panel_size(80, 60)
    one = 2 * (width + height)
    assert 5 * one * 0.8 < edges < 5 * one * 1.2  # the photo's and four words'


def test_the_figure_has_a_good_shape_and_few_holes():
    assert [_columns(n, 290, 250) for n in (1, 2, 3, 4, 6, 12)] == [1, 2, 3, 2, 3, 4]


def test_light_falls_where_the_attention_is():
    one = np.zeros((7, 7), np.float32)
    one[1, 5] = 1.0
    lit = _lit(np.full((140, 140, 3), 120, np.uint8), one).astype(int).sum(axis=2)
    y, x = np.unravel_index(lit.argmax(), lit.shape)
    assert abs(y - 30) <= 2  # the middle of row 1 of 7
    assert abs(x - 110) <= 2
    assert lit[110, 30] < lit[30, 110] / 2


def test_light_has_no_edges():
    one = np.zeros((7, 7), np.float32)
    one[3, 3] = 1.0
    lit = _lit(np.full((210, 210, 3), 120, np.uint8), one).astype(int)
    assert np.abs(np.diff(lit, axis=0)).max() <= 8  # of 120 or so: no cell shows its border
    assert np.array_equal(lit, lit[::-1, ::-1])


def test_attention_everywhere_is_a_photo_in_full_light():
    photo = np.full((70, 70, 3), 120, np.uint8)
    even = _lit(photo, np.full((7, 7), 1 / 49, np.float32))
    assert (even >= photo).all()
    assert (even == even[0, 0]).all()


def test_a_long_word_and_an_unknown_one_fit():
    figure = attention_figure(grey(40, 640), caption(["antidisestablishmentarianism" * 2, "<unk>"]))
    assert isinstance(figure, Image.Image)
    assert (np.asarray(figure)[:, -20:] == PAPER).all()


def test_without_attention_there_is_no_figure():
    with pytest.raises(ValueError, match="no attention to draw"):
        attention_figure(grey(64, 64), Caption("a", -1.0, -1.0, (Word("a", -1.0, None),)))


@pytest.mark.parametrize("size", [(8, 8), (640, 480), (480, 640), (2000, 100), (100, 2000)])
@pytest.mark.parametrize("probabilities", [(), (1.0,), (0.5, 0.3, 0.2), (0.05,) * 20])
def test_any_answers_to_any_question_of_any_photo(size, probabilities):
    very_long = answered(*probabilities, text="on the\nleft " * 90, unknown=("zorbing" * 30,) * 50)
    figure = np.asarray(answer_figure(grey(*size), "is it\nraining ? " * 50, very_long))
    assert max(figure.shape) < 2500
    assert (figure[[0, -1]] == PAPER).all()  # the margin is free on every side
    assert (figure[:, [0, -1]] == PAPER).all()


def test_a_bar_is_as_long_as_its_answer_is_probable():
    figure = np.asarray(answer_figure(grey(640, 480), "is it raining?", answered(0.75, 0.25, 0.0)))
    amber = (figure == AMBER).all(axis=2).sum(axis=1)
    starts = np.flatnonzero(np.diff(np.minimum(amber, 1)) == 1)
    assert [amber[start : start + 10].max() for start in starts] == pytest.approx([195, 65], abs=2)  # of 260


def test_an_answer_lights_the_photo_where_the_model_looked():
    figure = np.asarray(answer_figure(grey(300, 300), "what?", answered(1.0))).astype(int).sum(axis=2)
    left = figure.shape[1] - 40 - BARS_WIDTH - 40 - 300  # the second panel; the photo's is 320 further left
    top = figure.shape[0] - 40 - 300
    lit, photo = (figure[top + 10 : top + 290, x + 10 : x + 290] for x in (left, left - 320))
    assert (photo == 360).all()
    y, x = np.unravel_index(lit.argmax(), lit.shape)
    assert abs(y + 10 - 64) <= 4  # the middle of row 1 of 7
    assert abs(x + 10 - 236) <= 4


def test_unknown_words_add_small_print_below():
    without, with_one = (
        answer_figure(grey(300, 300), "is it zorbing?", answered(1.0, unknown=words)) for words in ((), ("zorbing",))
    )
    assert with_one.height > without.height
    same = without.height - 40
    assert np.array_equal(np.asarray(with_one)[:same], np.asarray(without)[:same])


def test_a_text_is_cut_where_the_room_ends():
    font = _font(20)
    for text in ("a", "antidisestablishmentarianism", "w" * 1000):
        assert _cut(text, font, font.getlength(text)) == text
        for room in (30.0, 60.0, 90.0):
            cut = _cut(text, font, room)
            assert font.getlength(cut) <= room
            if cut != text:
                assert font.getlength(f"{text[: len(cut)]}…") > room  # one letter more would not fit


def test_an_answer_without_attention_has_no_figure():
    with pytest.raises(ValueError, match="no attention to draw"):
        answer_figure(grey(64, 64), "what?", Answered((Answer("yes", 1.0),), None))
