"""A picture of where the model looked: the photo, then one panel per word, lit where the attention was.

Axes: H, W height and width of the photo; h, w of a panel; R, C rows and columns of the attention grid; 3 colours.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from captioner.results import Caption, Word

PAPER, INK, FAINT, EDGE = (252, 251, 248), (36, 36, 42), (140, 138, 134), (226, 224, 219)
NIGHT = (14, 18, 38)
"""What the photo fades into where the model did not look."""
GLOW = (96, 66, 20)
"""Light added where it did, so that it shows on black too."""
AREA, LONGEST, SHORTEST = 230**2, 400, 20
"""Of a panel, in pixels: all photos get about the same area, whatever their shape."""
MARGIN, GAP, LABEL, CORNER = 40, 20, 34, 8
TITLE_SIZE, WORD_SIZE, SMALL_SIZE, SMALLEST_SIZE = 30, 20, 14, 11
SHAPE = 1.5
"""Width over height that the figure aims at."""
BLUR = 0.62
"""Standard deviation of the light of one grid cell, in cells: wide enough that no cell shows its edges."""


def attention_figure(photo_HW3: NDArray[np.uint8], caption: Caption) -> Image.Image:
    """Draw an RGB photo and its caption word by word; raises ValueError if the words carry no attention."""
    maps_RC = [word.attention for word in caption.words if word.attention is not None]
    if len(maps_RC) < len(caption.words):
        raise ValueError("there is no attention to draw: the model was made without")
    width, height = _panel_size(photo_HW3.shape[1], photo_HW3.shape[0])
    small_hw3 = np.array(Image.fromarray(photo_HW3).resize((width, height), Image.Resampling.LANCZOS))
    panels = [small_hw3, *(_lit(small_hw3, map_RC) for map_RC in maps_RC)]

    labels = (_font(WORD_SIZE).getlength(word.text) + _percent_width(word) for word in caption.words)
    cell = max(width, 110, *(min(200, math.ceil(label)) for label in labels))
    columns = _columns(len(panels), cell + GAP, height + LABEL + GAP)
    rows = math.ceil(len(panels) / columns)
    inner = columns * (cell + GAP) - GAP
    title = _wrapped(caption.text, _font(TITLE_SIZE), inner)
    top = MARGIN + round(len(title) * TITLE_SIZE * 1.3) + GAP
    bottom = top + rows * (height + LABEL + GAP) - GAP + MARGIN
    figure = Image.new("RGB", (inner + 2 * MARGIN, bottom), PAPER)
    draw = ImageDraw.Draw(figure)

    for n, line in enumerate(title):
        draw.text((MARGIN, MARGIN + round(n * TITLE_SIZE * 1.3)), line, INK, _font(TITLE_SIZE), "lt")
    corners = _rounded(width, height)
    for n, panel_hw3 in enumerate(panels):
        row, column = divmod(n, columns)
        middle = MARGIN + column * (cell + GAP) + cell // 2
        y = top + row * (height + LABEL + GAP)
        if n == 0:
            draw.text((middle, y + LABEL - 12), "the photo", FAINT, _font(SMALL_SIZE), "ms")
        else:
            _label(draw, caption.words[n - 1], middle, y + LABEL - 12, cell)
        left = middle - width // 2
        draw.rounded_rectangle((left - 1, y + LABEL - 1, left + width, y + LABEL + height), CORNER + 1, outline=EDGE)
        figure.paste(Image.fromarray(panel_hw3), (left, y + LABEL), corners)
    return figure


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a panel that has the photo's shape, but for the most extreme ones."""
    scale = min(math.sqrt(AREA / (width * height)), LONGEST / max(width, height))
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


def _rounded(width: int, height: int) -> Image.Image:
    """A mask with round, smooth corners."""
    mask = Image.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * CORNER, 255)
    return mask.resize((width, height), Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it always is
    return font


def _percent(word: Word) -> str:
    percent = 100 * math.exp(min(word.log_prob, 0.0))
    return f"{percent:.0f}%" if percent >= 1 else "<1%"


def _percent_width(word: Word) -> float:
    return 7 + _font(SMALL_SIZE).getlength(_percent(word))


def _label(draw: ImageDraw.ImageDraw, word: Word, middle: int, baseline: int, room: int) -> None:
    """The word and its probability, centred; a word too long for the room is set smaller, then cut."""
    size, left_for_word = WORD_SIZE, room - _percent_width(word)
    while size > SMALLEST_SIZE and _font(size).getlength(word.text) > left_for_word:
        size -= 1
    text = _cut(word.text, _font(size), left_for_word)
    width = _font(size).getlength(text)
    left = middle - (width + _percent_width(word)) / 2
    draw.text((left, baseline), text, INK, _font(size), "ls")
    draw.text((left + width + 7, baseline), _percent(word), FAINT, _font(SMALL_SIZE), "ls")


def _cut(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, or as much of it as there is room for."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """The text in lines no longer than the room, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, font, room))
    return lines
