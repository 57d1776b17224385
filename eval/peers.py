"""One photo on one machine in one run: our time per caption beside other libraries' (captioner[peers]).

    python -m eval peers --bundle B [--photo P] [--repeats N]

`vit_gpt2` is transformers' VisionEncoderDecoder of a base ViT and GPT-2, `blip_base` its BLIP of base sizes, both with
random weights (the time does not depend on what they say), their own image processors, eager PyTorch in fp32, 7 beams
and 20 tokens (min_new_tokens forbids an earlier end; ours ends when it likes, and the table says after how many words).
Everybody starts from the bytes of the photo; turning tokens into text is left out for the peers. Each has a process of
its own that is idle while another is timed; they take turns; medians. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from captioner import sharing
from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.engine import engine_name
from eval.results import table
from eval.speed import about, busy, generated_photo

OURS = "captioner"
BEAM_SIZE, WORDS = 7, 20
WARM_UP = 2
SETTLE_S = 0.3
"""Before a time is taken: the threads of whoever came before spin for a while."""
START_S, CAPTION_S = 600, 300
"""Until a peer is ready; until it has made a caption."""

SIZES: dict[str, dict[str, Mapping[str, Any]]] = {"vit_gpt2": {}, "blip_base": {}}
"""Other sizes than base, for tests: keyword arguments of vit_gpt2 and blip."""

Contestant = Callable[[], Callable[[], int]]
"""Loads a model in the process that calls it; what it returns captions the photo once and says how many words."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval peers`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--photo", type=Path, help="default: a generated JPEG of 640 x 480")
    add("--repeats", type=int, default=5, help="captions of everybody, after the warm-up; default: 5")
    add("--threads", type=int, default=2, help="of everybody; default: 2")
    add("--out", type=Path, help="write the times to this JSON file")


def main(args: argparse.Namespace) -> None:
    """Time, print, write."""
    for name in ("repeats", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    versions = {name: _version(name) for name in ("transformers", "torch")}
    bundle = sharing.load(args.bundle)
    if not bundle.model.captions:
        raise ValueError(f"bundle {bundle.name} writes no captions")
    photo = args.photo.read_bytes() if args.photo else generated_photo()
    load = busy()
    contestants = {
        OURS: partial(ours, bundle.folder, photo, args.threads),
        "vit_gpt2": partial(vit_gpt2, photo, args.threads, **SIZES["vit_gpt2"]),
        "blip_base": partial(blip, photo, args.threads, **SIZES["blip_base"]),
    }
    times, words = measure(contestants, args.repeats)
    report = {
        **compare(times, words),
        "beam_size": BEAM_SIZE,
        "max_words": WORDS,
        "engine": engine_name(),
        "versions": versions,
        **about(bundle, args.photo, args.threads, args.repeats, load),
    }
    print(peers_table(report))
    if args.out:
        write_json(args.out, report)


def measure(contestants: Mapping[str, Contestant], repeats: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of every caption after the warm-up, and words of the last, by contestant; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    words: dict[str, int] = {}
    with ExitStack() as stack:
        ready = {name: stack.enter_context(_Process(name, load)) for name, load in contestants.items()}
        for n in range(WARM_UP + repeats):
            for name, process in ready.items():
                sleep(SETTLE_S)
                seconds, words[name] = process.caption()
                if n >= WARM_UP:
                    times[name].append(1000 * seconds)
    return times, words


def compare(times: Mapping[str, list[float]], words: Mapping[str, int]) -> dict[str, Any]:
    """Medians, spreads and words of everybody, and how many times our median goes into theirs."""
    medians = {name: median(own) for name, own in times.items()}
    return {
        "caption_ms": medians,
        "range_ms": {name: [min(own), max(own)] for name, own in times.items()},
        "words": dict(words),
        "times_ours": {name: value / medians[OURS] for name, value in medians.items() if name != OURS},
    }


def peers_table(report: Mapping[str, Any]) -> str:
    """Milliseconds for a caption, the fastest and slowest, words, and the ratio to ours."""
    rows = [["one caption", "ms, median", "range", "words", "times ours"]]
    for name, value in report["caption_ms"].items():
        low, high = report["range_ms"][name]
        ratio = report["times_ours"].get(name, 1.0)
        rows.append([name, f"{value:.1f}", f"{low:.1f}-{high:.1f}", str(report["words"][name]), f"{ratio:.1f}"])
    return table(rows)


def ours(folder: Path, photo: bytes, threads: int) -> Callable[[], int]:
    """A bundle; nothing is remembered from caption to caption."""
    captioner = Captioner.load(folder, threads=threads, memory_bytes=0)
    return lambda: len(captioner.caption(photo, BEAM_SIZE, WORDS, captions=1)[0].words)


def vit_gpt2(
    photo: bytes, threads: int, vit: Mapping[str, Any] | None = None, gpt2: Mapping[str, Any] | None = None
) -> Callable[[], int]:
    """ViT-base and GPT-2 with random weights; vit and gpt2: other sizes for their configs."""
    torch = _torch(threads)
    import transformers

    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vit or {}), transformers.GPT2Config(**gpt2 or {})
    )
    model = transformers.VisionEncoderDecoderModel(config).eval()
    start = config.decoder.bos_token_id
    size = config.encoder.image_size
    processor = transformers.ViTImageProcessor(size={"height": size, "width": size})
    return partial(_generate, torch, model, processor, photo, decoder_start_token_id=start, bos_token_id=start,
                   eos_token_id=config.decoder.eos_token_id, pad_token_id=start)  # fmt: skip


def blip(
    photo: bytes, threads: int, text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None
) -> Callable[[], int]:
    """BLIP-base for captions (384 x 384 pixels, 12 heads) with random weights; text and vision: other sizes."""
    torch = _torch(threads)
    import transformers

    config = transformers.BlipConfig(
        text_config={"num_attention_heads": 12, **(text or {})}, vision_config={"image_size": 384, **(vision or {})}
    )
    model = transformers.BlipForConditionalGeneration(config).eval()
    size = config.vision_config.image_size
    processor = transformers.BlipImageProcessor(size={"height": size, "width": size})
    return partial(_generate, torch, model, processor, photo)


def _generate(torch: Any, model: Any, processor: Any, photo: bytes, **tokens: int) -> int:
    from PIL import Image

    with torch.inference_mode():
        pixels = processor(images=Image.open(io.BytesIO(photo)).convert("RGB"), return_tensors="pt")["pixel_values"]
        found = model.generate(pixel_values=pixels, num_beams=BEAM_SIZE, do_sample=False,
                               min_new_tokens=WORDS, max_new_tokens=WORDS, **tokens)  # fmt: skip
    return int(found.shape[1]) - 1  # the first token only starts it


def _torch(threads: int) -> Any:
    """torch with this many threads, in a process that asks nobody for files."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    return torch


class _Process:
    """A contestant in a process of its own."""

    def __init__(self, name: str, load: Contestant):
        context = get_context("spawn")
        self._name = name
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, load), daemon=True)
        self._process.start()
        there.close()  # so that its end shows here
        self._receive(START_S)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def caption(self) -> tuple[float, int]:
        """Seconds, measured in there, and words."""
        self._here.send(None)
        seconds, words = self._receive(CAPTION_S)
        return seconds, words

    def _receive(self, timeout_s: float) -> Any:
        try:
            found = self._here.recv() if self._here.poll(timeout_s) else f"no answer in {timeout_s} s"
        except EOFError:
            found = "its process ended"
        if isinstance(found, str):
            self._process.kill()
            raise ValueError(f"{self._name}: {found}")
        return found


def _serve(pipe: Connection, load: Contestant) -> None:
    """Say that the model is there, then caption whenever asked; a failure is a sentence."""
    try:
        caption = load()
        pipe.send(())
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            start = perf_counter()
            words = caption()
            pipe.send((perf_counter() - start, words))
    except Exception as e:  # whatever a library raises
        pipe.send(f"{type(e).__name__}: {e}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as e:
        raise ValueError(f"{package} is not installed: install captioner[peers]") from e
