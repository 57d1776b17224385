"""A picture of where the model looked: the photo, then it again for each word or for an answer, lit by the attention.

Axes: H, W height and width of the photo; h, w of a panel; R, C rows and columns of the attention grid; 3 colours.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from captioner.results import Answer, Answered, Caption, Word

PAPER, INK, FAINT, EDGE = (252, 251, 248), (36, 36, 42), (140, 138, 134), (226, 224, 219)
NIGHT = (14, 18, 38)
"""What the photo fades into where the model did not look."""
GLOW = (96, 66, 20)
"""Light added where it did, so that it shows on black too."""
AMBER = (226, 158, 40)
"""A probability."""
AREA, LONGEST, SHORTEST = 230**2, 400, 20
"""Of a panel, in pixels: all photos get about the same area, whatever their shape."""
ANSWER_AREA = 300**2
"""Of the two panels of an answer."""
MARGIN, GAP, LABEL, CORNER = 40, 20, 34, 8
TITLE_SIZE, WORD_SIZE, SMALL_SIZE, SMALLEST_SIZE = 30, 20, 14, 11
LEADING = 1.3
"""From line to line, in sizes of the font."""
BARS, BARS_WIDTH, BAR, BAR_TOP, BAR_STEP = 5, 260, 6, 26, 50
"""How many answers are shown; a bar's width, thickness, and place below its answer's top; from answer to answer."""
PHOTO, LOOKED = "the photo", "where the model looked"
WITHOUT = "there is no attention to draw: the model was made without"
SHAPE = 1.5
"""Width over height that the figure aims at."""
BLUR = 0.62
"""Standard deviation of the light of one grid cell, in cells: wide enough that no cell shows its edges."""


def attention_figure(photo_HW3: NDArray[np.uint8], caption: Caption) -> Image.Image:
    """Draw an RGB photo and its caption word by word; raises ValueError if the words carry no attention."""
    maps_RC = [word.attention for word in caption.words if word.attention is not None]
    if len(maps_RC) < len(caption.words):
        raise ValueError(WITHOUT)
    photo_hw3 = _small(photo_HW3, AREA)
    panels = [photo_hw3, *(_lit(photo_hw3, map_RC) for map_RC in maps_RC)]
    height, width, _ = photo_hw3.shape

    labels = (_font(WORD_SIZE).getlength(word.text) + _percent_width(word) for word in caption.words)
    cell = max(width, 110, *(min(200, math.ceil(label)) for label in labels))
    columns = _columns(len(panels), cell + GAP, height + LABEL + GAP)
    rows = math.ceil(len(panels) / columns)
    figure, draw, top = _sheet(caption.text, columns * (cell + GAP) - GAP, rows * (height + LABEL + GAP) - GAP)
    for n, panel_hw3 in enumerate(panels):
        row, column = divmod(n, columns)
        middle = MARGIN + column * (cell + GAP) + cell // 2
        baseline = top + row * (height + LABEL + GAP) + LABEL - 12
        if n == 0:
            draw.text((middle, baseline), PHOTO, FAINT, _font(SMALL_SIZE), "ms")
        else:
            _label(draw, caption.words[n - 1], middle, baseline, cell)
        _paste(figure, draw, panel_hw3, middle, baseline + 12)
    return figure


def answer_figure(photo_HW3: NDArray[np.uint8], question: str, answered: Answered) -> Image.Image:
    """Draw an RGB photo, where the model looked for its answer to a question, and the best answers.

    Raises ValueError if there is no attention.
    """
    if answered.attention is None:
        raise ValueError(WITHOUT)
    photo_hw3 = _small(photo_HW3, ANSWER_AREA)
    height, width, _ = photo_hw3.shape
    cell = max(width, *(math.ceil(_font(SMALL_SIZE).getlength(label)) for label in (PHOTO, LOOKED)))
    inner = 2 * (cell + GAP) + GAP + BARS_WIDTH
    bars = answered.answers[:BARS]
    unknown = ", ".join(answered.unknown_words)
    small_print = _wrapped(f"not understood: {unknown}" if unknown else "", _font(SMALL_SIZE), inner)
    tall = LABEL + max(height, (len(bars) - 1) * BAR_STEP + BAR_TOP + BAR)
    below = GAP + round(len(small_print) * SMALL_SIZE * LEADING) if small_print else 0
    figure, draw, top = _sheet(question, inner, tall + below)
    for n, (label, panel_hw3) in enumerate(((PHOTO, photo_hw3), (LOOKED, _lit(photo_hw3, answered.attention)))):
        middle = MARGIN + n * (cell + GAP) + cell // 2
        draw.text((middle, top + LABEL - 12), label, FAINT, _font(SMALL_SIZE), "ms")
        _paste(figure, draw, panel_hw3, middle, top + LABEL)
    for n, answer in enumerate(bars):
        _bar(figure, draw, answer, MARGIN + inner - BARS_WIDTH, top + LABEL + n * BAR_STEP)
    _lines(draw, small_print, top + tall + GAP, SMALL_SIZE, FAINT)
    return figure


def _small(photo_HW3: NDArray[np.uint8], area: int) -> NDArray[np.uint8]:
    size = _panel_size(photo_HW3.shape[1], photo_HW3.shape[0], area)
    return np.array(Image.fromarray(photo_HW3).resize(size, Image.Resampling.LANCZOS))


def _sheet(title: str, width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Paper with a title, room of this size below it, and a margin around both; and where the room begins."""
    lines = _wrapped(title, _font(TITLE_SIZE), width)
    top = MARGIN + round(len(lines) * TITLE_SIZE * LEADING) + GAP
    figure = Image.new("RGB", (width + 2 * MARGIN, top + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(figure)
    _lines(draw, lines, MARGIN, TITLE_SIZE, INK)
    return figure, draw, top


def _lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], top: int, size: int, colour: tuple[int, int, int]) -> None:
    for n, line in enumerate(lines):
        draw.text((MARGIN, top + round(n * size * LEADING)), line, colour, _font(size), "la")


def _paste(figure: Image.Image, draw: ImageDraw.ImageDraw, panel_hw3: NDArray[np.uint8], middle: int, top: int) -> None:
    """A panel with round corners and a fine edge."""
    height, width, _ = panel_hw3.shape
    left = middle - width // 2
    draw.rounded_rectangle((left - 1, top - 1, left + width, top + height), CORNER + 1, outline=EDGE)
    figure.paste(Image.fromarray(panel_hw3), (left, top), _rounded(width, height))


def _bar(figure: Image.Image, draw: ImageDraw.ImageDraw, answer: Answer, left: int, top: int) -> None:
    """An answer, its probability, and under both a bar that is full where the model is certain."""
    right, percent = left + BARS_WIDTH, _percent(answer.probability)
    room = BARS_WIDTH - GAP - _font(SMALL_SIZE).getlength(percent)
    text = _cut(" ".join(answer.text.split()), _font(WORD_SIZE), room)
    draw.text((left, top + WORD_SIZE - 4), text, INK, _font(WORD_SIZE), "ls")
    draw.text((right, top + WORD_SIZE - 4), percent, FAINT, _font(SMALL_SIZE), "rs")
    for end, colour in ((1.0, EDGE), (answer.probability, AMBER)):
        if end > 0:
            mask = _rounded(max(BAR, round(BARS_WIDTH * end)), BAR, BAR // 2)
            figure.paste(colour, (left, top + BAR_TOP), mask)


def _panel_size(width: int, height: int, area: int = AREA) -> tuple[int, int]:
    """Width and height of a panel that has the photo's shape, but for the most extreme ones."""
    scale = min(math.sqrt(area / (width * height)), LONGEST / max(width, height))
    return max(SHORTEST, round(width * scale)), max(SHORTEST, round(height * scale))


def _columns(panels: int, width: int, height: int) -> int:
    """How many panels to a row, so that the figure has a good shape and the last row few holes."""

    def badness(columns: int) -> float:
        rows = math.ceil(panels / columns)
        holes = (rows * columns - panels) / panels
        return abs(math.log(columns * width / (rows * height) / SHAPE)) + 2 * holes

    return min(range(1, panels + 1), key=badness)


def _lit(photo_hw3: NDArray[np.uint8], map_RC: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photo warmly lit where the map is at its highest, a dim grey night where it is zero."""
    height, width, _ = photo_hw3.shape
    rows, columns = map_RC.shape
    light_hw = spread(rows, height) @ map_RC.astype(np.float64) @ spread(columns, width).T
    light_hw1 = (light_hw / max(light_hw.max(), 1e-12))[:, :, None]
    photo = photo_hw3.astype(np.float64)
    grey_hw1 = (photo @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    dim = 0.78 * np.array(NIGHT) + 0.22 * grey_hw1 * np.array([0.92, 0.97, 1.15])
    lit = 255 - (255 - photo) * (255 - np.array(GLOW) * light_hw1) / 255
    mixed: NDArray[np.float64] = dim + (lit - dim) * light_hw1
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def spread(cells: int, pixels: int) -> NDArray[np.float64]:
    """How much of each cell's light [pixels, cells] reaches a pixel: a Gaussian around the cell's middle."""
    distance = (np.arange(pixels)[:, None] + 0.5) / pixels * cells - (np.arange(cells)[None] + 0.5)
    share: NDArray[np.float64] = np.exp(-0.5 * (distance / BLUR) ** 2)
    share /= share.sum(axis=1, keepdims=True)
    return share


def _rounded(width: int, height: int, corner: int = CORNER) -> Image.Image:
    """A mask with round, smooth corners."""
    mask = Image.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * corner, 255)
    return mask.resize((width, height), Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it always is
    return font


def _percent(probability: float) -> str:
    percent = 100 * min(probability, 1.0)
    return f"{percent:.0f}%" if percent >= 1 else "<1%"


def _word_percent(word: Word) -> str:
    return _percent(math.exp(min(word.log_prob, 0.0)))


def _percent_width(word: Word) -> float:
    return 7 + _font(SMALL_SIZE).getlength(_word_percent(word))


def _label(draw: ImageDraw.ImageDraw, word: Word, middle: int, baseline: int, room: int) -> None:
    """The word and its probability, centred; a word too long for the room is set smaller, then cut."""
    size, left_for_word = WORD_SIZE, room - _percent_width(word)
    while size > SMALLEST_SIZE and _font(size).getlength(word.text) > left_for_word:
        size -= 1
    text = _cut(word.text, _font(size), left_for_word)
    width = _font(size).getlength(text)
    left = middle - (width + _percent_width(word)) / 2
    draw.text((left, baseline), text, INK, _font(size), "ls")
    draw.text((left + width + 7, baseline), _word_percent(word), FAINT, _font(SMALL_SIZE), "ls")


def _cut(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, or as much of it as there is room for."""
    if font.getlength(text) <= room:
        return text
    fits = bisect_right(range(1, len(text)), room, key=lambda n: font.getlength(f"{text[:n]}…"))
    return f"{text[:fits]}…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """The text in lines no longer than the room, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, font, room))
    return lines
