"""The PNG of where a model looked."""

from __future__ import annotations

from io import BytesIO

from captioner.figure import answer_figure, attention_figure
from captioner.images import ImageLimits, decode_image
from services.engine import Outcome

SIDE = 400
"""Pixels: the longest side of a panel, so that a large photo need not be decoded whole."""


def draw(image: bytes, question: str, outcome: Outcome, limits: ImageLimits) -> bytes:
    """Draw the best caption of a picture, or the answers to the question; takes a tenth of a second or so."""
    photo_HW3 = decode_image(image, limits, needed=(SIDE, SIDE))
    if outcome.answered is not None:
        figure = answer_figure(photo_HW3, question, outcome.answered)
    else:
        assert outcome.captions is not None
        figure = attention_figure(photo_HW3, outcome.captions[0])
    file = BytesIO()
    figure.save(file, "PNG")
    return file.getvalue()
