"""The engine: stages, options, what becomes of the graphs' numbers, and the truth about the provider."""

import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import BadImage, Bundle, BundleError, Captioner, SearchOptions
from captioner.config import ModelConfig, Preprocessing
from captioner.engine import EngineError, Session
from captioner.lexicon import Lexicon
from captioner.vocabulary import MARKS, Vocabulary

ROOT = Path(__file__).parent.parent


def photo(seed: int, width: int = 80, height: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def soft(tiny_bundle) -> Captioner:
    return Captioner.load(tiny_bundle, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def inject(tiny_bundle_inject) -> Captioner:
    return Captioner.load(tiny_bundle_inject, precision="fp32", threads=1)


def same(first, second) -> bool:
    """Equal captions, but for the rounding of another batch size."""
    return [c.text for c in first] == [c.text for c in second] and np.allclose(
        [c.log_prob for c in first], [c.log_prob for c in second], atol=1e-4
    )


class Paper:
    """In place of a session: answers with numbers that a person can check, and remembers what it was asked."""

    provider = "cpu"

    def __init__(self, **answers):
        self.answers = answers

    def run(self, outputs, inputs, stop=None):
        self.inputs = inputs
        return [self.answers[name] for name in outputs]


def on_paper(answers: dict, attention: str = "soft") -> Captioner:
    words = [*MARKS, "a", "man", "'s", "hat"]
    bundle = Bundle(
        folder=Path("paper"),
        name="paper",
        version="0",
        model=ModelConfig(attention=attention, preprocessing=Preprocessing(height=16, width=32)),
        grid=(2, 3, 4),
        search=SearchOptions(beam_size=5, max_words=3, length_power=0.5),
        lexicon=Lexicon(Vocabulary(words)),
        scores={},
        precisions=("fp32",),
    )
    return Captioner(bundle, "fp32", Paper(), Paper(**answers))


ANSWERS = {
    "words": np.array([[[4, 7, 2], [5, 6, 7], [4, 2, 0]]]),
    "word_log_probs": np.array([[[-0.5, -1.0, -0.25], [-1, -1, -1], [-2, -3, 0]]], np.float32),
    "log_probs": np.array([[-1.75, -3.0, -1e9]], np.float32),
    "scores": np.array([[-1.0, -1.5, -5e8]], np.float32),
    "attention": np.arange(3 * 3 * 6, dtype=np.float32).reshape(1, 3, 3, 6),
}


def test_the_graphs_numbers_become_captions():
    captioner = on_paper(ANSWERS)
    [[first, second]] = captioner.search(np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3, captions=3))
    assert first.text == "a hat"  # the end mark is no word
    assert (first.log_prob, first.score) == (-1.75, -1.0)  # but its probability counts
    assert [(w.text, w.log_prob) for w in first.words] == [("a", -0.5), ("hat", -1.0)]
    assert second.text == "man's hat"  # cut at max_words: no end mark at all
    assert np.array_equal(first.words[1].attention, [[6, 7, 8], [9, 10, 11]])  # row by row
    assert first.words[1].attention.base is None  # does not hold the whole batch


def test_a_hypothesis_that_never_was_is_dropped():
    captioner = on_paper(ANSWERS)
    assert len(captioner.search(np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3, captions=3))[0]) == 2
    assert len(captioner.search(np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3, captions=1))[0]) == 1


def test_a_caption_may_have_no_words():
    answers = {**ANSWERS, "words": np.array([[[2, 0, 0]] * 3])}
    first = on_paper(answers).search(np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3))[0][0]
    assert (first.text, first.words) == ("", ())


def test_without_attention_none_is_asked_for():
    answers = {name: value for name, value in ANSWERS.items() if name != "attention"}
    first = on_paper(answers, "none").search(np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3))[0][0]
    assert first.words[0].attention is None


def test_the_search_is_asked_what_the_options_say():
    captioner = on_paper(ANSWERS)
    captioner.search(
        np.zeros((1, 6, 4), np.float32), SearchOptions(beam_size=3, max_words=4, captions=2, length_power=0.7)
    )
    inputs = captioner._decoder.inputs
    assert inputs["first_scores"].tolist() == [0.0, -1e9, -1e9]
    assert inputs["steps"].tolist() == [0, 1, 2, 3]
    assert inputs["length_power"] == np.float32(0.7)
    assert inputs["wanted"] == 2
    assert {name: value.dtype.name for name, value in inputs.items()} == {
        "grid": "float32",
        "first_scores": "float32",
        "steps": "int64",
        "length_power": "float32",
        "wanted": "int64",
    }


def test_options_start_from_the_bundle():
    captioner = on_paper({})
    assert captioner.options() == SearchOptions(beam_size=5, max_words=3, captions=3, length_power=0.5)
    assert captioner.options(beam_size=2) == SearchOptions(beam_size=2, max_words=3, captions=2, length_power=0.5)
    assert captioner.options(9, 10, 9, 0.0) == SearchOptions(9, 10, 9, 0.0)
    with pytest.raises(ValueError, match=r"captions must be in \[1, 2\], got 3"):
        captioner.options(beam_size=2, captions=3)
    with pytest.raises(ValueError, match="beam_size"):
        captioner.options(beam_size=0)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 32, 16, 3), np.uint8), ((16, 32, 3), np.uint8), ((1, 16, 32, 3), np.float32)]
)
def test_wrong_pixels_are_named(shape, dtype):
    with pytest.raises(ValueError, match=r"pixels must be uint8 \[photos, 16, 32, 3\], got"):
        on_paper({}).encode(np.zeros(shape, dtype))


def test_captions_of_a_photo(soft):
    captions = soft.caption(photo(0))
    assert len(captions) == 3
    assert [c.score for c in captions] == sorted((c.score for c in captions), reverse=True)
    rows, columns, _ = soft.bundle.grid
    for word in captions[0].words:
        assert word.attention.shape == (rows, columns)
        assert word.attention.dtype == np.float32
        assert word.attention.sum() == pytest.approx(1, abs=1e-4)
        assert word.log_prob <= 0


def test_a_cut_caption_is_the_sum_of_its_words(soft):
    for caption in soft.caption(photo(1), max_words=3, captions=7, beam_size=7):
        total = sum(word.log_prob for word in caption.words)
        if len(caption.words) == 3:  # cut: no end mark
            assert caption.log_prob == pytest.approx(total, abs=1e-3)
        else:
            assert caption.log_prob <= total + 1e-3  # the end mark costs too


def test_stages_are_the_whole(soft):
    options = soft.options()
    pixels = soft.pixels(photo(2))
    assert pixels.shape == (64, 64, 3)
    grid = soft.encode(pixels[None])
    rows, columns, channels = soft.bundle.grid
    assert (grid.shape, grid.dtype) == ((1, rows * columns, channels), np.float32)
    assert same(soft.search(grid, options)[0], soft.caption(photo(2)))


def test_a_batch_of_mixed_photos_is_as_many_batches_of_one(soft):
    photos = [photo(3), photo(4, 200, 40), Image.fromarray(photo(5, 30, 90)), np.zeros((50, 50), np.uint8)]
    options = soft.options(beam_size=4)
    together = soft.caption_batch(photos, options)
    assert len(together) == 4
    for one, captions in zip(photos, together, strict=True):
        assert same(captions, soft.caption(one, beam_size=4))


def test_a_batch_without_options_has_the_bundles(soft):
    assert [len(captions) for captions in soft.caption_batch([photo(0), photo(1)])] == [1, 1]
    assert soft.caption_batch([]) == []


@pytest.mark.parametrize(("beam_size", "max_words"), [(1, 1), (1, 20), (3, 5), (7, 20), (20, 50)])
def test_beams_and_words_are_chosen_per_call(soft, beam_size, max_words):
    captions = soft.caption(photo(6), beam_size=beam_size, max_words=max_words, captions=beam_size)
    assert 1 <= len(captions) <= beam_size
    assert all(len(caption.words) <= max_words for caption in captions)
    assert len({caption.text for caption in captions}) == len(captions)


def test_length_power_divides_the_score(soft):
    for caption in soft.caption(photo(7), length_power=1.0, max_words=4):
        length = len(caption.words) + (len(caption.words) < 4)  # the end mark counts, if there is one
        ended = caption.log_prob / length
        cut = caption.log_prob / max(1, len(caption.words))
        assert any(caption.score == pytest.approx(value, abs=1e-3) for value in (ended, cut))


def test_a_model_without_attention(inject):
    captions = inject.caption(photo(8))
    assert captions
    assert all(word.attention is None for caption in captions for word in caption.words)


def test_int8_is_taken_where_it_is(tiny_bundle):
    captioner = Captioner.load(tiny_bundle, threads=1)
    assert captioner.precision == "int8"
    assert captioner.caption(photo(9))
    assert Captioner.load(Bundle.open(tiny_bundle), "fp32", threads=1).precision == "fp32"


def test_bad_photos_and_bundles_are_named(soft, tmp_path):
    with pytest.raises(BadImage, match="0 bytes"):
        soft.caption(b"")
    with pytest.raises(BundleError, match="no bundle at"):
        Captioner.load(tmp_path / "nowhere")


def test_threads_share_a_captioner(soft):
    expected, wrong = soft.caption(photo(10)), []

    def work():
        for _ in range(5):
            if not same(soft.caption(photo(10)), expected):
                wrong.append("caption")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_provider_is_what_really_runs(tiny_bundle):
    onnxruntime = pytest.importorskip("onnxruntime")
    captioner = Captioner.load(tiny_bundle, threads=1, provider="cuda")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime may have a GPU")
    assert captioner.provider == "cpu"
    with pytest.raises(EngineError, match=r"a GPU is required, but onnxruntime runs encoder\..*CPUExecutionProvider"):
        Captioner.load(tiny_bundle, threads=1, provider="cuda", require_gpu=True)


def fake_onnxruntime(monkeypatch, available: list[str], used: list[str]) -> dict:
    """A module in place of onnxruntime that says what it was asked for."""
    asked = {}

    class Options:
        def add_session_config_entry(self, name, value):
            asked[name] = value

    class InferenceSession:
        def __init__(self, path, options, providers):
            asked.update(vars(options), providers=providers)

        def get_providers(self):
            return used

    module = types.ModuleType("onnxruntime")
    module.SessionOptions = Options
    module.InferenceSession = InferenceSession
    module.get_available_providers = lambda: available
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return asked


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_a_session_has_its_threads_and_they_hardly_spin(monkeypatch):
    asked = fake_onnxruntime(monkeypatch, [CPU], [CPU])
    Session(Path("x.onnx"), threads=3)
    assert asked == {
        "intra_op_num_threads": 3,
        "inter_op_num_threads": 1,
        "session.intra_op.spin_duration_us": "50",
        "providers": [CPU],
    }


def test_a_gpu_that_is_there_is_used(monkeypatch):
    asked = fake_onnxruntime(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    assert Session(Path("x.onnx"), provider="cuda", require_gpu=True).provider == "cuda"
    assert asked["providers"] == [CUDA, CPU]


def test_a_gpu_that_fails_is_told(monkeypatch):
    fake_onnxruntime(monkeypatch, [CUDA, CPU], [CPU])
    assert Session(Path("x.onnx"), provider="cuda").provider == "cpu"
    with pytest.raises(EngineError, match=r"a GPU is required, but onnxruntime runs x.onnx with CPUExecutionProvider"):
        Session(Path("x.onnx"), provider="cuda", require_gpu=True)


def test_bad_engine_settings_are_named(monkeypatch):
    fake_onnxruntime(monkeypatch, [CPU], [CPU])
    with pytest.raises(ValueError, match="provider must be one of cpu, cuda, got 'tpu'"):
        Session(Path("x.onnx"), provider="tpu")
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Session(Path("x.onnx"), threads=0)
    with pytest.raises(ValueError, match="require_gpu needs the provider cuda, got cpu"):
        Session(Path("x.onnx"), require_gpu=True)


def test_no_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"install captioner\[cpu\] or captioner\[gpu\]"):
        Session(Path("x.onnx"))


def test_a_file_that_is_no_graph_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="onnxruntime cannot open"):
        Session(tmp_path / "encoder.onnx", threads=1)


def test_importing_the_captioner_loads_no_engine_and_no_torch():
    code = "import sys, captioner, captioner.cli; print(sorted({'torch', 'onnxruntime', 'grpc'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
