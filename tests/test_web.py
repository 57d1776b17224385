"""The page in headless Chromium, against a service without a model; SCREENSHOTS=FOLDER keeps what it looks like."""

from __future__ import annotations

import os
import shutil
import time
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("connectrpc", reason="connectrpc is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from google.protobuf.descriptor import FieldDescriptor
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from captioner.figure import _lit
from captioner.v1 import captioner_pb2 as pb
from services.errors import NotReadyError, QueueFullError, TokenError, UnavailableError
from tests.fake_service import COLUMNS, ROWS, FakeService, model, web
from tests.running_server import jpeg

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 15.0
"""Seconds."""
SENTENCES = ["a man's dog", "two dogs", "grass"]


@pytest.fixture(scope="module")
def chromium():
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium
    chromium.quit()


class Page:
    """A tab and what a person would look for in it."""

    def __init__(self, browser, address, folder):
        self.browser, self.address, self.folder = browser, address, folder

    def open(self, width=1280, height=900, **media):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        features = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in media.items()]
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.browser.get_log("browser")
        self.browser.get(self.address)
        return self

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        self.until(lambda: self.all(selector), f"nothing matches {selector}")
        return self.all(selector)[0]

    def until(self, condition, complaint="it did not happen"):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if condition():
                    return
            except Exception as error:
                if "stale" not in str(error):
                    raise
            assert time.monotonic() < end, complaint
            time.sleep(0.02)

    def script(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def pick(self, *photos):
        """Through the button's file field; a photo is bytes."""
        paths = []
        for n, photo in enumerate(photos):
            paths.append(self.folder / f"photo-{n}.jpg")
            paths[-1].write_bytes(photo)
        self.one("#settings:not([hidden])")
        self.one("#files").send_keys("\n".join(map(str, paths)))

    def captions(self):
        return [" ".join(line.text.split()) for line in self.all(".caption")]

    def looked_at(self):
        """Row and column of the attention grid where the photo's canvas is brightest; None while it is not shown."""
        self.until(lambda: self.script("return document.getAnimations().length === 0"))
        return self.script(
            """const canvas = document.querySelector(".frame canvas");
               if (getComputedStyle(canvas).opacity === "0") return null;
               const { width, height } = canvas;
               const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
               let [best, most] = [0, -1];
               for (let n = 0; n < width * height; n++) if (data[4 * n] > most) [best, most] = [n, data[4 * n]];
               const [rows, columns] = arguments;
               const [y, x] = [Math.floor(best / width) / height, (best % width) / width];
               return [Math.floor(y * rows), Math.floor(x * columns)];
            """,
            ROWS,
            COLUMNS,
        )

    def said(self):
        return self.one("#status").get_attribute("textContent")

    def point(self, element):
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).perform()

    def shot(self, name):
        if folder := os.environ.get("SCREENSHOTS"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def page(chromium, service, tmp_path):
    with web(service) as (address, _, _):
        yield Page(chromium, address, tmp_path)
        chromium.get("about:blank")


def flat(height=120, width=160, grey=90):
    """A photo of one grey, so that only the light differs from place to place."""
    file = BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def test_photos_are_captioned_and_words_show_where_the_model_looked(page, service):
    page.open().pick(flat())
    page.until(lambda: page.captions() == SENTENCES)
    chances = [chance.text for chance in page.all(".chance")]
    assert chances == ["1 in 1,100", "16%", "10%"]  # .5 * .4 * .9 * .005 is .0009
    request = service.asked("CaptionImage")[0]
    assert (request.image, request.beam_size, request.captions) == (flat(), 7, 3)
    assert request.include_attention
    facts = page.one(".say > .facts").text.replace("\u00a0", " ")
    assert facts.startswith("fake 0123456789ab · encode 3.5 ms · search 7.0 s")
    assert page.said() == "photo-0.jpg: a man's dog"
    assert page.one(".frame img").get_attribute("alt") == "Photo: a man's dog"

    a, man, clitic, dog, *_ = page.all(".word")
    assert page.looked_at() is None
    for word, cell, told in ((man, 1, "man  40%"), (dog, 3, "dog  <1%"), (a, 0, "a  50%")):
        page.point(word)
        page.until(lambda cell=cell: page.looked_at() == [0, cell])
        assert page.one(".told").text == told
    assert clitic.get_attribute("aria-label") == "'s, 90%, looked at the top"
    page.point(page.one(".name"))
    page.until(lambda: page.looked_at() is None)
    assert page.browser.get_log("browser") == []
    page.shot("captions")


def test_the_light_is_that_of_the_figure(page):
    page.open(reduced_motion="reduce").pick(flat(300, 400))
    page.one(".word")
    page.point(page.all(".word")[1])
    page.until(lambda: page.looked_at() == [0, 1])
    height, width, pixels = page.script(
        """const canvas = document.querySelector(".frame canvas");
           const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
           return [canvas.height, canvas.width, [...data]];"""
    )
    map_RC = np.zeros((ROWS, COLUMNS), np.float32)
    map_RC[0, 1] = 1
    expected = _lit(np.full((height, width, 3), 90, np.uint8), map_RC)
    assert np.abs(np.array(pixels).reshape(height, width, 4)[:, :, :3] - expected.astype(int)).max() <= 1


def test_a_question_is_answered_with_bars_and_a_map(page, service):
    page.open().pick(flat())
    page.one(".word")
    field = page.one(".ask input")
    field.send_keys("What is the zorp dog?", Keys.ENTER)
    page.until(lambda: len(page.all(".bars li")) == 5)
    texts = [part.text for part in page.all(".bars .text, .bars .percent")]
    assert texts == ["yes", "60%", "no", "25%", "two", "10%", "red", "5%", "blue", "<1%"]
    width = "return arguments[0].offsetWidth / arguments[0].parentNode.offsetWidth"
    widths = [page.script(width, bar) for bar in page.all(".bar span")]
    assert widths[:3] == pytest.approx([0.6, 0.25, 0.1], abs=0.01)
    assert [mark.text for mark in page.all("mark")] == ["zorp"]
    assert page.one(".unknown").text == "The model does not know “zorp” and passed over it."
    assert "yes, 60%. It looked at the bottom right." in page.said()
    page.until(lambda: page.looked_at() == [ROWS - 1, COLUMNS - 1])
    where = page.one(".where")
    assert where.get_attribute("aria-pressed") == "true"
    where.click()
    page.until(lambda: page.looked_at() is None)
    page.point(page.all(".word")[1])
    page.until(lambda: page.looked_at() == [0, 1])
    assert service.asked("AnswerQuestion")[0].question == "What is the zorp dog?"
    assert not service.asked("AnswerQuestion")[0].history
    assert field.get_attribute("value") == ""
    page.shot("answer")


def test_a_dialog_is_sent_along_to_a_model_that_takes_it(page, service):
    service.models = [model(accepts_history=True)]
    page.open().pick(flat())
    page.one(".word")
    for n, text in enumerate(("What is this?", "Is this the dog?"), 1):
        page.one(".ask input").send_keys(text, Keys.ENTER)
        page.until(lambda n=n: len(page.all(".bars li")) == 5 * n)
    assert list(service.asked("AnswerQuestion")[1].history) == [pb.Exchange(question="What is this?", answer="yes")]
    assert [heading.text for heading in page.all(".question")] == ["Is this the dog?", "What is this?"]


def test_settings_caption_again(page, service):
    page.open().pick(flat())
    page.until(lambda: page.captions() == SENTENCES)
    beam = page.one("#beam")
    beam.clear()
    beam.send_keys("2", Keys.TAB)
    page.until(lambda: page.captions() == SENTENCES[:2])
    request = service.asked("CaptionImage")[-1]
    assert (request.beam_size, request.captions) == (2, 2)
    beam.clear()
    beam.send_keys("21", Keys.TAB)  # the model takes 20
    page.until(lambda: page.one("#problem").text.startswith("Beam size k: "))
    beam.clear()
    beam.send_keys(Keys.TAB)
    assert page.one("#problem").is_displayed()
    assert page.one("#captions").get_attribute("value") == "2"
    assert service.asked("CaptionImage")[-1] == request


@pytest.mark.parametrize(
    ("photo", "sentence"),
    [
        (b"", "This file is empty."),
        (jpeg()[:2000], "This picture is damaged and cannot be read."),
        (b"hello", "This is not a picture of a kind that can be read. JPEG, PNG, WebP and GIF can."),
        (jpeg(4, 4), "This picture is too small: each side needs 8 pixels at least."),
        (bytes(2**24 + 2**20), "This file has 17 MiB, and at most 16 MiB are accepted. It was not sent."),
    ],
)  # fmt: skip
def test_a_photo_that_cannot_be_used_fails_alone(page, service, photo, sentence):
    page.open().pick(photo, flat())
    page.until(lambda: page.captions() == SENTENCES)
    page.until(lambda: page.one(".sentence").text == sentence, "no sentence")
    assert not page.one(".again").is_displayed()
    assert len(page.all(".say > .problem:not([hidden])")) == 1
    if "not sent" in sentence:
        assert [request.image for request in service.asked("CaptionImage")] == [flat()]


def test_a_busy_server_is_asked_again(page, service):
    service.failures = [NotReadyError("LOADING")]  # of ListModels
    page.open()
    page.one("#settings:not([hidden])")
    service.failures = [QueueFullError("full", 0.05)] * 2
    page.pick(flat())
    page.until(lambda: page.captions() == SENTENCES)
    assert len(service.asked("CaptionImage")) == 3
    service.failures = [QueueFullError("full", 0.01)] * 4
    page.pick(flat())
    page.until(lambda: page.one(".sentence").text == "The server is busy. Try again in a moment.")
    page.one(".again").click()
    page.until(lambda: page.captions() == SENTENCES * 2)


def test_a_fault_of_the_server_has_its_id(page, service):
    page.open()
    page.one("#settings:not([hidden])")
    service.failures = [ZeroDivisionError("secret")]
    page.pick(flat())
    page.until(
        lambda: page.one(".sentence").text.startswith("Something went wrong on the server. Its log has the details")
    )
    assert "secret" not in page.script("return document.body.textContent")


def test_a_question_that_fails_is_kept_to_be_asked_again(page, service):
    page.open().pick(flat())
    page.one(".word")
    service.failures = [UnavailableError("ANSWERS_UNAVAILABLE", "no")]
    page.one(".ask input").send_keys("What is this?", Keys.ENTER)
    page.until(lambda: page.one(".answer .problem").text == "This model writes captions and answers no questions.")
    assert page.one(".ask input").get_attribute("value") == "What is this?"


def test_the_server_is_gone(chromium, service, tmp_path):
    with web(service) as (address, _, _):
        page = Page(chromium, address, tmp_path).open()
        page.one("#settings:not([hidden])")
    page.pick(flat())
    page.until(lambda: page.one(".sentence").text.startswith("The server cannot be reached."))
    chromium.get("about:blank")


def test_a_token_is_asked_for(page, service):
    service.failures = [TokenError("TOKEN_MISSING", "no token"), TokenError("TOKEN_INVALID", "another")]
    page.open()
    for _ in range(2):
        page.until(lambda: page.one("#token-value").is_displayed())
        page.one("#token-value").send_keys("open-sesame", Keys.ENTER)
    page.one("#settings:not([hidden])")
    assert page.one("#token-problem").get_attribute("textContent") == "The server does not accept this token."
    assert dict(service.seen[-1][2])["authorization"] == "Bearer open-sesame"
    page.script("sessionStorage.clear()")


def test_models_without_attention_or_answers(page, service):
    service.models = [model(has_attention=False, answers_questions=False, has_answer_attention=False)]
    page.open().pick(flat())
    page.until(lambda: page.captions() == SENTENCES)
    assert not service.asked("CaptionImage")[0].include_attention
    page.point(page.all(".word")[1])
    assert page.one(".told").text == "man  40%"
    assert page.looked_at() is None
    assert not page.one(".ask input").is_displayed()
    assert page.one("#lead").text == "Show a photo, and a model writes captions for it."
    assert page.one("#about").text.endswith("answers no questions · cannot show where it looked")


def test_one_model_writes_and_another_answers(page, service):
    service.models = [
        model("writer", answers_questions=False),
        model("other", answers_questions=False),
        model("answerer", writes_captions=False),
    ]
    page.open().pick(flat())
    page.one(".word")
    assert not page.one("#answerer").is_displayed()
    assert [option.text for option in page.all("#writer option")] == ["writer", "other"]
    page.one(".ask input").send_keys("What is this?", Keys.ENTER)
    page.one(".bars li")
    assert service.asked("AnswerQuestion")[0].model == "answerer"
    page.one("#writer option[value=other]").click()
    page.until(lambda: service.asked("CaptionImage")[-1].model == "other")


def test_a_model_that_only_answers(page, service):
    service.models = [model(writes_captions=False)]
    page.open().pick(flat())
    page.one(".ask input").send_keys("What is this?", Keys.ENTER)
    page.until(lambda: len(page.all(".bars li")) == 5)
    assert not service.asked("CaptionImage")
    assert not page.one("#beam").is_displayed()
    assert page.one("#lead").text == "Show a photo, and a model answers questions about it."


def test_with_the_keyboard_alone(page):
    page.open().pick(flat(), flat())
    page.until(lambda: len(page.captions()) == 6)

    def press(*keys):
        ActionChains(page.browser).send_keys(*keys).perform()
        return page.browser.switch_to.active_element

    page.script("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    names = []
    for _ in range(12):
        element = press(Keys.TAB)
        outline = element.value_of_css_property("outline-style")
        assert outline != "none", element.get_attribute("outerHTML")
        kind = element.get_attribute("id") or element.get_attribute("class") or element.tag_name
        names.append(kind.split()[0].split("-")[0])
    assert names == [
        "choose",
        "captions",
        "beam",
        "quiet",
        "word",
        "word",
        "word",
        "a",
        "question",
        "button",
        "quiet",
        "word",
    ]

    page.script("document.querySelector('.word').focus()")
    press(Keys.ARROW_RIGHT)
    page.until(lambda: page.looked_at() == [0, 1])
    press(Keys.END)
    page.until(lambda: page.looked_at() == [0, 3])
    press(Keys.HOME)
    page.until(lambda: page.looked_at() == [0, 0])
    press(Keys.ESCAPE)
    page.until(lambda: page.looked_at() is None)
    page.script("document.querySelector('.ask input').focus()")
    press("What is this?", Keys.ENTER)
    page.until(lambda: page.looked_at() == [ROWS - 1, COLUMNS - 1])
    page.script("document.querySelector('.remove').focus()")
    assert press(Keys.ENTER).get_attribute("class") == "name"
    assert len(page.all("article")) == 1
    page.script("document.querySelector('.remove').focus()")
    assert press(Keys.SPACE).get_attribute("id") == "choose"


TRANSFER = """const files = new DataTransfer();
const content = Uint8Array.from(arguments[0]);
for (const name of arguments[1]) files.items.add(new File([content], name, { type: "image/png" }));
"""


def test_dropped_and_pasted_photos(page, service):
    page.open()
    page.one("#settings:not([hidden])")
    drop = """document.body.dispatchEvent(new DragEvent("dragenter", { dataTransfer: files, bubbles: true }));
    window.marked = document.body.classList.contains("dragging");
    const dropped = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
    document.body.dispatchEvent(dropped);
    return [window.marked, document.body.classList.contains("dragging"), dropped.defaultPrevented];"""
    assert page.script(TRANSFER + drop, list(flat()), ["one.png", "two.png"]) == [True, False, True]
    page.until(lambda: page.captions() == SENTENCES * 2)
    assert [name.text for name in page.all(".name")] == ["one.png", "two.png"]
    page.script(
        TRANSFER + "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: files }));",
        list(flat()),
        ["p.png"],
    )
    page.until(lambda: page.captions() == SENTENCES * 3)
    assert page.all(".name")[0].text == "p.png"
    assert {request.image for request in service.asked("CaptionImage")} == {flat()}


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_accessible(page, width, scheme):
    page.open(width, color_scheme=scheme).pick(flat(), b"hello", flat(100, 900))
    page.until(lambda: len(page.captions()) == 6)
    page.one(".ask input").send_keys("What is the zorp dog of Donaudampfschifffahrtsgesellschaft?", Keys.ENTER)
    page.until(lambda: len(page.all(".bars li")) == 5)
    page.script("document.getElementById('meaning').open = true")
    assert page.script("return document.documentElement.scrollWidth") <= width
    paper = page.script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 150) == (scheme == "dark")
    page.shot(f"{scheme}-{width}")
    page.until(lambda: page.script("return document.getAnimations().length === 0"))
    # The page's own policy keeps it from loading anything else, so the checks come in by the debugger.
    page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe().read_text(encoding="utf-8")})
    found = page.browser.execute_async_script("axe.run().then((found) => arguments[0](found.violations))")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def axe():
    """axe-core, from npm or in the package axe-playwright-python."""
    spec = find_spec("axe_playwright_python")
    for folder in (ROOT / "node_modules/axe-core", *(Path(place) for place in spec.submodule_search_locations if spec)):
        if (folder / "axe.min.js").is_file():
            return folder / "axe.min.js"
    pytest.skip("axe-core is not installed")


def test_the_pages_messages_are_those_of_the_proto(page):
    page.open()
    page.one("#settings:not([hidden])")
    own = page.browser.execute_async_script("import('/messages.js').then((it) => arguments[0](it.MESSAGES))")
    assert set(own) >= {"CaptionImageRequest", "AnswerQuestionResponse", "Model"}
    kinds = {
        FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes", FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_INT32: "int32", FieldDescriptor.TYPE_INT64: "int64", FieldDescriptor.TYPE_FLOAT: "float",
        FieldDescriptor.TYPE_DOUBLE: "double",
    }  # fmt: skip
    for name, fields in own.items():
        message = pb.DESCRIPTOR.message_types_by_name[name]
        for field, (number, kind) in fields.items():
            known = message.fields_by_name[field]
            expected = kinds.get(known.type) or known.message_type.name
            assert (number, kind) == (known.number, expected + "[]" * known.is_repeated), f"{name}.{field}"


def test_numbers_in_words(page):
    page.open()
    chances = page.browser.execute_async_script(
        """import("/sentences.js").then(({ chance, percent, place }) => arguments[arguments.length - 1]([
             [1, 0.996, 0.834, 0.0345, 0.00089, 1e-7, 1e-12].map(chance),
             [0.834, 0.004, 0].map(percent),
             [0, 4, 5, 8].map((cell) => place({ rows: 3, columns: 3, weights: Array(9).fill(0).with(cell, 1) })),
           ]))"""
    )
    assert chances == [
        ["100%", "over 99%", "83%", "3.5%", "1 in 1,100", "1 in 10 million", "less than 1 in a billion"],
        ["83%", "<1%", "0%"],
        ["at the top left", "in the middle", "at the right", "at the bottom right"],
    ]
