"""The page without a server: its modules in Node, and the whole of it in Chromium, against the runtime."""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

pytest.importorskip("connectrpc", reason="connectrpc is not installed")  # tests.test_web needs it
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import Keys

from captioner import Captioner
from captioner.bundle import Bundle
from captioner.config import Preprocessing
from captioner.images import BadImage, decode_image
from captioner.preprocess import load_pixels
from captioner.query import BadQuestion, Query
from captioner.tokens import sentence, tokenize
from services.browser import serving as file_server
from services.browser.packages import runtime_files
from services.browser.serving import serving
from services.browser.site import build, sizes
from tests.browser_node import node
from tests.browser_photos import BAD, CLOSE, EXACT, drawn, file
from tests.test_web import Page, axe, chromium, flat

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = (chromium,)
LOG_PROB = 0.05
"""Tolerance for a caption: what differs in the last bit of a float, int8 may round to the next of its 255 steps."""


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A page that starts a model of its own takes longer than one that asks a server."""
    monkeypatch.setattr("tests.test_web.PATIENCE", 90.0)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def test_pillow_s_resize_to_the_byte() -> None:
    random = np.random.default_rng(0)
    shapes = [tuple(int(n) for n in random.integers(1, 120, 4)) for _ in range(60)]
    shapes += [(64, 64, 64, 64), (480, 640, 224, 224), (601, 397, 224, 224), (100, 80, 64, 64), (84, 23, 76, 19)]
    pictures = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width, _, _ in shapes]
    found = node(
        "resize.js",
        "resize",
        """return given.map(([[from, width, to, narrow], data]) =>
             base64(resize({ height: from, width, data: bytes(data) }, to, narrow).data));""",
        [[shape, encoded(picture.tobytes())] for shape, picture in zip(shapes, pictures, strict=True)],
    )
    for (_, _, height, width), picture, ours in zip(shapes, pictures, found, strict=True):
        theirs = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        assert np.array_equal(decoded(ours).reshape(height, width, 3), theirs), (picture.shape, height, width)


def test_how_far_a_jpeg_is_reduced() -> None:
    random = np.random.default_rng(0)
    cases = [tuple(int(n) for n in random.integers((100, 100, 20, 20), (700, 700, 300, 300))) for _ in range(200)]
    found = node(
        "reduce.js", "kept", "return given.map(([h, w, height, width]) => kept(h, w, { height, width }))", cases
    )
    for (height, width, rows, columns), n in zip(cases, found, strict=True):
        photo = simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8), 10)
        shape = simplejpeg.decode_jpeg(photo, "RGB", min_height=rows, min_width=columns, min_factor=2).shape
        assert shape == (-(-height * n // 8), -(-width * n // 8), 3)
    assert set(found) == {1, 2, 3, 4, 8}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_reduced_decoding_of_a_grey_jpeg(n: int) -> None:
    picture = np.asarray(drawn(150, 205, "L"))
    photo = simplejpeg.encode_jpeg(np.ascontiguousarray(picture[:, :, None]), 95, "GRAY")
    height, width = -(-150 * n // 8), -(-205 * n // 8)
    theirs = simplejpeg.decode_jpeg(photo, "RGB", min_height=height, min_width=width, min_factor=2)
    whole = np.dstack([simplejpeg.decode_jpeg(photo, "RGB"), np.full((150, 205), 255, np.uint8)])
    data = node(
        "reduce.js",
        "Reduced",
        """const picture = new Reduced(150, 205, given.n);
           picture.add(bytes(given.data), 0, 0, 150, 205);
           return base64(picture.data)""",
        {"n": n, "data": encoded(whole.tobytes())},
    )
    ours = decoded(data).reshape(theirs.shape)
    inside = np.s_[
        : 144 * n // 8, : 200 * n // 8
    ]  # whole blocks: what an encoder fills up the others with is its affair
    assert np.abs(ours[inside].astype(int) - theirs[inside]).max() <= 1


TEXTS = [
    "A man's dog isn't here, cannot say - really?",
    "don’t we’ll I'd  o'clock",
    "half-eaten rock'n'roll AT&T u.s. 3,000.5 1/2",
    "Wanna ask: (what) [is] {this}… “it” «is» — no?",
    "ÉTÉ naïve Straße İstanbul ΟΔΟΣ ½ x² ٣٫٤ 三 人",
    "snake_case __x 's 'm n't ''",
    "a\u200bb\ufeffc\u00a0d\x85e\x1cf e\u0301",
    "",
]


def test_tokens_are_those_of_python() -> None:
    random = np.random.default_rng(0)
    letters = [*"aAbnst'’-/&._,:?!()[]0123 \t\"“é½²٣ß三\u0301", "n't", "'s", "cannot", "u.s."]
    texts = [*TEXTS, *("".join(random.choice(letters, random.integers(1, 25))) for _ in range(2000))]
    found = node("tokens.js", "tokenize", "return given.map((text) => tokenize(text))", texts)
    assert found == [tokenize(text) for text in texts]
    written = node("tokens.js", "sentence", "return given.map(sentence)", found)
    assert written == [sentence(tokens) for tokens in found]


def test_questions_are_refused_as_in_python() -> None:
    texts = ["?!", "a" * 1001, "😀" * 1000 + "a", "word " * 51, "word " * 50, "what is it"]
    found = node(
        "questions.js",
        "check",
        "return given.map((text) => { try { check(text); return null; } catch (e) { return [e.reason, e.message]; } })",
        texts,
    )
    for text, refusal in zip(texts, found, strict=True):
        try:
            Query(text)
            expected = None
        except BadQuestion as error:
            expected = [error.reason, str(error)]
        assert refusal == expected


@pytest.mark.parametrize("reason", BAD)
def test_photos_are_refused_as_in_python(reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(BAD[reason])
    assert caught.value.reason == reason
    code = "try { inspect(bytes(given)); } catch (error) { return error.reason; }"
    assert node("files.js", "inspect", code, encoded(BAD[reason])) == reason


def test_orientation_is_read_and_taken_out() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        photo = file(drawn(30, 40), kind, 6)
        code = "const { orientation, height, width, parts } = inspect(bytes(given));"
        code += "return [orientation, height, width, base64(Buffer.concat(parts))]"
        *found, stripped = node("files.js", "inspect", code, encoded(photo))
        assert found == [6, 30, 40]
        assert decode_image(decoded(stripped).tobytes()).shape == (30, 40, 3)


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web, installed once."""
    try:
        return runtime_files(ROOT / ".cache/browser")
    except Exception as error:
        pytest.skip(f"onnxruntime-web could not be installed: {error}")


@contextmanager
def opened(browser, bundle, runtime, folder, isolated=True):
    build(Bundle.open(bundle), runtime, folder / "site")
    with serving(folder / "site", 0, isolated) as (address, _):
        yield Page(browser, address, folder)
        browser.get("about:blank")


@pytest.fixture(scope="module")
def site(chromium, runtime, tiny_bundle_answers, tmp_path_factory):
    """The page with a tiny model, warm: opened once for all tests that only ask."""
    with opened(chromium, tiny_bundle_answers, runtime, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(site):
    return site.open(reduced_motion="reduce")


@pytest.fixture(scope="module")
def captioner(tiny_bundle_answers):
    return Captioner.load(tiny_bundle_answers, threads=1)


def call(page, method, photo, **request):
    """The response of the page's model, or the reason of its refusal."""
    page.browser.set_script_timeout(120)
    return page.browser.execute_async_script(
        """const [method, request, photo, done] = arguments;
           const image = new File([Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0))], "photo");
           import("/server.js").then(({ call }) => call(method, { ...request, image }))
             .then(done, (error) => done(error.reason));
        """,
        method, request, encoded(photo),
    )  # fmt: skip


def pixels(page, photo, height=64, width=64):
    data = page.browser.execute_async_script(
        """const [photo, height, width, done] = arguments;
           const file = new Blob([Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0))]);
           import("/pixels.js").then(({ pixels }) => pixels(file, { height, width }))
             .then(({ data }) => done([...data]));
        """,
        encoded(photo), height, width,
    )  # fmt: skip
    return np.array(data).reshape(height, width, 3)


def test_pixels_are_those_of_the_runtime(page) -> None:
    far = {}
    for name, photo in {**EXACT, **CLOSE}.items():
        difference = np.abs(pixels(page, photo) - load_pixels(photo, Preprocessing(64, 64)))
        far[name] = (difference.mean(), difference.max())
    assert {name for name in EXACT if far[name][1]} == set()
    assert max(mean for mean, _ in far.values()) < 0.5
    assert max(most for _, most in far.values()) <= 3


@pytest.fixture(scope="module")
def seen(site, captioner):
    """What the runtime's encoder sees in the page's own pixels of each photo [1, P, C].

    The tiny model's weights are so sharp that one level in a pixel changes its words. So photos whose pixels are only
    close are compared behind the pixels; on real photos and models the words are the same in nearly all cases.
    """
    photos = {**EXACT, **CLOSE}
    return {name: captioner.encode(pixels(site.open(), photo).astype(np.uint8)[None]) for name, photo in photos.items()}


@pytest.mark.parametrize("k", [1, 3, 7])
def test_captions_are_those_of_the_runtime(page, captioner, seen, k) -> None:
    for name, photo in {**EXACT, **CLOSE}.items():
        found = call(page, "CaptionImage", photo, beam_size=k, captions=min(3, k))["captions"]
        if name in EXACT:
            expected = [caption.text for caption in captioner.caption(photo, beam_size=k)]
            assert [caption["text"] for caption in found] == expected, name
        for ours, theirs in zip(found, captioner.search(seen[name], captioner.options(k))[0], strict=True):
            assert ours["log_prob"] == pytest.approx(theirs.log_prob, abs=LOG_PROB), name
            for word, other in zip(ours["words"], theirs.words, strict=True):
                assert word["text"] == other.text
                assert np.allclose(word["attention"]["weights"], other.attention.ravel(), atol=0.02), name


def test_answers_are_those_of_the_runtime(page, captioner, seen) -> None:
    questions = ["what is the colour?", "how many zorp dogs are there, zorp?", "is there red on the cat's Gras"]
    for n, (name, photo) in enumerate({**EXACT, **CLOSE}.items()):
        question = questions[n % 3]
        found = call(page, "AnswerQuestion", photo, question=question)
        if name in EXACT:
            whole = [answer.text for answer in captioner.answer(photo, question).answers]
            assert [answer["text"] for answer in found["answers"]] == whole, name
        (expected,) = captioner.answer_batch(seen[name], [Query(question)], [0])
        probabilities = [answer.probability for answer in expected.answers]
        assert [answer["probability"] for answer in found["answers"]] == pytest.approx(probabilities, abs=0.01), name
        assert tuple(found["unknown_words"]) == expected.unknown_words
        assert np.allclose(found["attention"]["weights"], expected.attention.ravel(), atol=0.02), name


def words(page):
    page.until(lambda: page.captions(), "no captions")
    return page.captions()


def test_a_photo_is_captioned_and_words_show_where_the_model_looked(page, captioner) -> None:
    page.pick(EXACT["tall PNG"])
    assert words(page) == [caption.text for caption in captioner.caption(EXACT["tall PNG"])]
    assert page.said().startswith("photo-0.jpg: ")
    assert page.one("#about").text.startswith(f"tiny {captioner.bundle.version} · int8 on WebAssembly, ")
    assert page.one("#accepted").text.endswith("Photos stay on this device: the model runs in this page.")
    page.point(page.all(".word")[1])
    page.until(lambda: page.script("return document.querySelector('canvas').classList.contains('lit')"))
    page.until(lambda: not page.all(".loading"))
    assert page.browser.get_log("browser") == []
    page.shot("browser-captions")


def test_fewer_beams_and_questions(page, captioner) -> None:
    photo = EXACT["wide PNG"]
    page.pick(photo)
    words(page)
    beam = page.one("#beam")
    beam.clear()
    beam.send_keys("1", Keys.TAB)
    page.until(lambda: page.captions() == [caption.text for caption in captioner.caption(photo, beam_size=1)])
    page.one(".ask input").send_keys("How many zorp are there?", Keys.ENTER)
    page.until(lambda: len(page.all(".bars li")) == 5)
    expected = captioner.answer(photo, "How many zorp are there?").answers
    assert [bar.text for bar in page.all(".bars .text")] == [answer.text for answer in expected]
    assert [mark.text for mark in page.all("mark")] == ["zorp"]
    assert page.one(".unknown").text == "The model does not know “zorp” and passed over it."
    assert page.one(".where").get_attribute("aria-pressed") == "true"
    page.one(".ask input").send_keys("?!", Keys.ENTER)
    page.until(lambda: page.one(".answer .problem").text == "There are no words in this question.")


def test_a_photo_that_cannot_be_read_fails_alone(page) -> None:
    page.pick(BAD["CORRUPT_IMAGE"], b"hello", flat())
    words(page)
    page.until(lambda: len(page.all(".say > .problem:not([hidden])")) == 2)
    assert [sentence.text for sentence in page.all(".sentence") if sentence.is_displayed()] == [
        "This picture is damaged and cannot be read.",
        "This is not a picture of a kind that can be read. JPEG, PNG, WebP and GIF can.",
    ]


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "light"), (390, "dark"), (1280, "light")])
def test_it_fits_and_is_accessible(page, width, scheme) -> None:
    page.open(width, color_scheme=scheme, reduced_motion="reduce")
    page.pick(EXACT["wide PNG"], b"hello")
    words(page)
    page.one(".ask input").send_keys("What is the zorp on the cat?", Keys.ENTER)
    page.until(lambda: len(page.all(".bars li")) == 5)
    assert page.script("return document.documentElement.scrollWidth") <= width
    page.shot(f"browser-{scheme}-{width}")
    page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe().read_text(encoding="utf-8")})
    found = page.browser.execute_async_script("axe.run().then((found) => arguments[0](found.violations))")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_any_file_server_will_do_and_all_files_are_needed(
    chromium, runtime, tiny_bundle_answers, captioner, tmp_path, monkeypatch
) -> None:
    asked = []
    monkeypatch.setattr(
        file_server._Handler, "log_message", lambda _, __, line, *___: asked.append(str(line).split()[1])
    )
    with opened(chromium, tiny_bundle_answers, runtime, tmp_path, isolated=False) as page:
        page.open().pick(flat())
        assert words(page) == [caption.text for caption in captioner.caption(flat())]
        page.until(lambda: not page.all(".loading"))
        assert "WebAssembly, 1 thread " in page.one("#about").text
    there = {f"/{path.name}" for path in (tmp_path / "site").iterdir()}
    assert {path.partition("?")[0] for path in asked} == there - {"/index.html"} | {"/"}


def test_a_model_without_answers_or_attention(chromium, runtime, tiny_bundle_inject, tmp_path) -> None:
    with opened(chromium, tiny_bundle_inject, runtime, tmp_path) as page:
        page.open().pick(flat())
        assert words(page) == [c.text for c in Captioner.load(tiny_bundle_inject, threads=1).caption(flat())]
        assert page.one("#about").text.endswith("answers no questions · cannot show where it looked")
        assert not page.one(".ask input").is_displayed()


def test_a_changed_model_is_refused_and_a_missing_one_asked_for_again(
    chromium, runtime, tiny_bundle_answers, tmp_path
) -> None:
    with opened(chromium, tiny_bundle_answers, runtime, tmp_path) as page:
        graph = tmp_path / "site/captioner.int8.onnx"
        content = graph.read_bytes()
        graph.write_bytes(content[:-1] + b"?")
        page.open().pick(flat())
        refusal = "The model is damaged: captioner.int8.onnx is not the file that its manifest names."
        page.until(lambda: page.one(".sentence").text == refusal)
        graph.unlink()
        page.one(".again").click()
        missing = "The model could not be fetched: captioner.int8.onnx: the server says 404."
        page.until(lambda: page.one(".sentence").text == missing)
        graph.write_bytes(content)
        page.one(".again").click()
        words(page)


def test_the_page_loads_nothing_from_elsewhere(page) -> None:
    blocked = page.browser.execute_async_script(
        """document.addEventListener("securitypolicyviolation", (event) => arguments[0](event.effectiveDirective));
           fetch("http://127.0.0.1:9/").catch(() => {});"""
    )
    assert blocked == "connect-src"
    page.browser.get_log("browser")


def test_the_site_has_what_is_needed_and_no_more(tiny_bundle_answers, tmp_path) -> None:
    runtime = [tmp_path / "ort.mjs", tmp_path / "ort.wasm"]
    for path in runtime:
        path.write_bytes(b"code")
    out = tmp_path / "site"
    for _ in range(2):  # again over itself
        build(Bundle.open(tiny_bundle_answers), runtime, out)
        (out / "old.onnx").write_bytes(b"")
    build(Bundle.open(tiny_bundle_answers), runtime, out)
    names = {path.name for path in out.iterdir()}
    assert {"index.html", "ort.wasm", "encoder.int8.onnx", "captioner.int8.onnx", "answerer.int8.onnx"} <= names
    assert not names & {"encoder.onnx", "weights.safetensors", "scores.json", "old.onnx", "messages.js", "loading.html"}
    large = json.loads((out / "sizes.json").read_text())
    assert large["ort.wasm"] == 4
    assert large["encoder.int8.onnx"] == (tiny_bundle_answers / "encoder.int8.onnx").stat().st_size
    *each, (name, raw, packed) = sizes(out)
    assert (name, raw) == ("all", sum(size for _, size, _ in each))
    assert packed < raw
    html = (out / "index.html").read_text()
    assert 'id="token"' not in html
    for reference in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert reference in names
    with pytest.raises(ValueError, match="is not empty and holds no site"):
        build(Bundle.open(tiny_bundle_answers), runtime, tiny_bundle_answers)
