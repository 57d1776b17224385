"""Captions for photos: `Captioner.load(bundle).caption(photo)`. Needs numpy, Pillow and an onnxruntime; no torch."""

from captioner.bundle import Bundle, BundleError
from captioner.captioner import Captioner
from captioner.config import ModelConfig, Preprocessing, SearchOptions
from captioner.images import BadImage, decode_image
from captioner.results import Caption, Word

__all__ = [
    "BadImage",
    "Bundle",
    "BundleError",
    "Caption",
    "Captioner",
    "ModelConfig",
    "Preprocessing",
    "SearchOptions",
    "Word",
    "decode_image",
]
