"""Captions for photos, and answers to questions about them: `Captioner.load(bundle).caption(photo)`.

Needs numpy, Pillow and an onnxruntime; no torch.
"""

import os

# Before the import of onnxruntime, which else reports to its makers and writes a device's number to the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from captioner.bundle import Bundle, BundleError
from captioner.captioner import Captioner
from captioner.config import AnswererConfig, ModelConfig, Preprocessing, SearchOptions
from captioner.images import BadImage, decode_image
from captioner.query import BadQuestion, Query
from captioner.results import Answer, Answered, Caption, Word

__all__ = [
    "Answer",
    "Answered",
    "AnswererConfig",
    "BadImage",
    "BadQuestion",
    "Bundle",
    "BundleError",
    "Caption",
    "Captioner",
    "ModelConfig",
    "Preprocessing",
    "Query",
    "SearchOptions",
    "Word",
    "decode_image",
]
