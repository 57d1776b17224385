"""Fixtures: the shared data where it is, and tiny bundles with random weights through the real export."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from captioner.config import AnswererConfig, ModelConfig, Preprocessing, SearchOptions
from captioner.lexicon import Lexicon
from captioner.model.export import write_bundle
from captioner.model.network import Network
from captioner.vocabulary import END, MARKS, Vocabulary

torch.set_num_threads(2)

ROOT = Path(__file__).resolve().parents[1]
WORDS = """a the man woman dog cat ball red blue green big small runs sits jumps plays on in with and grass water
's""".split()  # noqa: SIM905
QUESTION_WORDS = "what is the on in colour how many are where there red dog cat yes no".split()  # noqa: SIM905
QUESTIONS = ["what is the colour", "how many dog are there", "is there red on the cat"]
ANSWERS = ("yes", "no", "red", "blue", "dog", "2", "grass")
TINY_WORDS = Lexicon(Vocabulary([*MARKS, *WORDS]), Vocabulary([*MARKS, *QUESTION_WORDS]), ANSWERS)
TINY_ANSWERER = AnswererConfig(embed_size=12, hidden_size=16, fusion_size=16, attention_size=8)
TINY = ModelConfig(
    encoder="alexnet", preprocessing=Preprocessing(64, 64), attention="soft", hidden_size=32, embed_size=24,
    feature_size=16, attention_size=8, tied_words=False,
)  # fmt: skip


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real pictures and weights is missing")
    return folder


def tiny_network(config: ModelConfig = TINY, seed: int = 0) -> Network:
    """Random weights, sharpened so that captions and answers depend on the photo, differ and end."""
    torch.manual_seed(seed)
    network = Network(config, **TINY_WORDS.sizes).eval()
    sharpened = {
        "embed": 4, "cells.0.recurrent": 5, "hidden_to_output": 6, "words": 8, "project.1": 8, "image_to_gates": 8,
        "attend.to_keys": 8, "attend.score": 8,
    }  # fmt: skip
    with torch.no_grad():
        if network.answerer is not None:
            for name, parameter in network.answerer.named_parameters():
                parameter *= 3 if name.endswith("weight") else 1
        if not config.captions:
            return network
        for name, parameter in network.decoder.named_parameters():
            parameter *= sharpened.get(name.removesuffix(".weight"), 1)
        network.decoder.words.bias[END] = 4.0
    return network


def tiny_photos(count: int = 8, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """Smooth random colours, uint8 [H, W, 3]."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [np.kron(c, np.ones((height // 4, width // 4, 1), np.uint8)) for c in coarse]


def _bundle(name: str, config: ModelConfig) -> Path:
    """Export takes a minute on a busy machine, so a bundle is kept until the code that writes it changes."""
    used = [ROOT / "captioner" / f"{name}.py" for name in ("bundle", "config", "preprocess", "vocabulary")]
    code = sorted([*used, *(ROOT / "captioner/model").glob("*.py"), Path(__file__)])
    digest = sha256(b"".join(path.read_bytes() for path in code) + torch.__version__.encode()).hexdigest()[:16]
    folder = ROOT / ".cache" / "test-bundles" / f"{name}-{digest}"
    if not folder.exists():
        search = SearchOptions(7, 12)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as unfinished:
            made = Path(unfinished) / "bundle"
            write_bundle(tiny_network(config), TINY_WORDS, "tiny", search, tiny_photos(), made, QUESTIONS)
            with suppress(OSError):  # another run of the tests was faster
                made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """A bundle with soft attention, fp32 and int8; read only."""
    return _bundle("soft", TINY)


@pytest.fixture(scope="session")
def tiny_bundle_inject() -> Path:
    """A bundle without attention; read only."""
    return _bundle("inject", replace(TINY, attention="none"))


@pytest.fixture(scope="session")
def tiny_bundle_answers() -> Path:
    """A bundle that writes captions and answers questions, both with attention; read only."""
    return _bundle("answers", replace(TINY, answerer=TINY_ANSWERER))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes that tests.tiny_training trains on; read only."""
    from tests.tiny_training import draw

    return draw(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def straight(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The folder of a tiny run that nothing interrupted, and what fit returned."""
    from tests.tiny_training import run, tiny

    out = tmp_path_factory.mktemp("straight")
    return out, run(tiny(), tiny_data, out, 1e9)
