"""`python -m eval report`: what stands in the page, what cannot get into it, and that it works in a browser."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner.captioner import Captioner
from eval import report
from eval.__main__ import main as command
from eval.report import Scored, choose
from eval.report_html import element
from eval.report_page import page
from eval.report_pictures import DARKEST, shade
from eval.report_questions import choose as choose_questions
from training.scenes import draw_splits

HOSTILE = '<script>alert(1)</script> & "quotes" \' </p> https://example.com/x.png'
HOSTILE_FILE = '" onerror="alert(1)" <b>.png'
PICTURES = 8
SCORES = {
    "metrics": {"Bleu_4": 0.25, "CIDEr": 1.1},
    "intervals": {"Bleu_4": [0.21, 0.29]},
    "rows": {
        "human": {"metrics": {"Bleu_4": 0.2, "CIDEr": 0.9}, "about": "one reference against the others"},
        "one constant caption": {"metrics": {"Bleu_4": 0.3}},
    },
    "curve": [{"beam_size": k, "metrics": {"Bleu_4": 0.2 + k / 100}} for k in (1, 3, 5)],
    "bias": {"confusion": {"man": {"man": 0.75, "woman": 0.25}, "woman": {"man": 0.5, "woman": 0.5}}},
    "skipped": {"SPICE": "Java is missing."},
    "pictures": PICTURES,
    "split": None,
    "length_power": 0.4,
}


class Elements(HTMLParser):
    """The (tag, attributes) that a browser would make of a page."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of_class(self, name):
        return [attributes for _, attributes in self.found if name in attributes.get("class", "").split()]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Eight drawn pictures, the first with a hostile name: annotations and folder."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_splits(folder, {"val": PICTURES})
    annotations = folder / "captions_val.json"
    document = json.loads(annotations.read_text())
    first = document["images"][0]
    (folder / "val" / first["file_name"]).rename(folder / "val" / HOSTILE_FILE)
    first["file_name"] = HOSTILE_FILE
    annotations.write_text(json.dumps(document))
    return annotations, folder / "val"


@pytest.fixture
def run(scenes, tmp_path):
    """The folder of an evaluation whose captions are made up; picture 1 is the worst and 8 the best."""
    write(tmp_path, "scores.json", SCORES)
    captions = [{"image_id": n, "caption": HOSTILE if n == 1 else f"caption {n}"} for n in range(1, PICTURES + 1)]
    write(tmp_path, "captions.json", captions)
    write(tmp_path, "pictures.json", [{**own, "scores": {"CIDEr": own["image_id"] / 10}} for own in captions])
    return tmp_path


def write(folder, name, document):
    (folder / name).write_text(json.dumps(document))


def make(run, scenes, *flags):
    """The page's HTML."""
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    places = ["--run", run, "--annotations", scenes[0], "--pictures", scenes[1]]
    report.main(parser.parse_args([*map(str, places), *map(str, flags)]))
    return (run / "report.html").read_text(encoding="utf-8")


def headings(html):
    return [unescape(heading) for heading in re.findall(r"<h2[^>]*>([^<]*)</h2>", html)]


def captions_of(html, heading):
    """Captions of the cards under a heading, in order."""
    section = html.split(f">{heading}</h2>")[1].split("</section>")[0]
    return [unescape(text) for text in re.findall(r'class="caption">(.*?)</p>', section)]


def test_the_page_has_a_section_for_all_there_is(run, scenes):
    write(run, "errors.json", [{"image_id": 9, "file": "<i>.jpg", "reason": "CORRUPT_IMAGE", "message": "no"}])
    html = make(run, scenes)
    assert headings(html) == ["Scores", "Beam size", "Best", "Worst", "Random", "Bias", "Left out", "Provenance"]
    for text in (
        "21.0 to 29.0",
        "110.0",
        "one reference against the others",
        "Java is missing.",
        "0.750",
        "&lt;i&gt;.jpg",
    ):
        assert text in html
    assert "BLEU-4 over beam size: 21.0 at k = 1, 23.0 at k = 3, 25.0 at k = 5" in html
    provenance = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", html.split(">Provenance</h2>")[1]))
    assert provenance["Split"] == "the whole file"
    assert provenance["Length power"] == "0.4"
    assert provenance["Commit"] == "not recorded"


def test_sections_without_data_are_left_out(run, scenes):
    write(run, "scores.json", {"metrics": {"Bleu_4": 0.25}, "curve": [], "bias": {}, "rows": None})
    (run / "pictures.json").unlink()
    html = make(run, scenes)
    assert headings(html) == ["Scores", "Random", "Provenance"]
    write(run, "scores.json", {})
    assert headings(make(run, scenes)) == ["Random", "Provenance"]


def test_best_come_down_and_worst_come_up(run, scenes):
    html = make(run, scenes, "--examples", 3)
    assert captions_of(html, "Best") == ["caption 8", "caption 7", "caption 6"]
    assert captions_of(html, "Worst") == [HOSTILE, "caption 2", "caption 3"]
    assert len(captions_of(html, "Random")) == 3


def test_few_pictures_are_best_or_worst_and_never_both():
    scored = [Scored(n, "", {"CIDEr": 0.0, "Bleu_4": n / 10}) for n in range(5)]  # as CIDEr ties, BLEU-4 parts them
    best, worst, drawn = choose(scored, 12)
    assert [picture.image_id for picture in best.scored] == [4, 3, 2]
    assert [picture.image_id for picture in worst.scored] == [0, 1]
    assert sorted(picture.image_id for picture in drawn.scored) == [0, 1, 2, 3, 4]


def test_nothing_hostile_and_nothing_from_elsewhere_gets_in(run, scenes):
    write(
        run,
        "scores.json",
        {**SCORES, "bundle": HOSTILE, "rows": {HOSTILE: {"about": HOSTILE}}, "bias": {HOSTILE: HOSTILE}},
    )
    html = make(run, scenes)
    elements = Elements(html)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert not {"i", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in elements.found}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
        assert not {"srcset", "poster", "action", "xlink:href"} & set(attributes), tag
    policy = next(own["content"] for tag, own in elements.found if own.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", html)
    assert captions_of(html, "Worst")[0] == HOSTILE


@given(st.text(), st.text())
def test_text_and_attributes_come_out_as_they_went_in(text, value):
    html = element("p", text, title=value)
    assert unescape(html.removesuffix("</p>").split(">", 1)[1]) == unescape(text.replace("&", "&amp;"))
    assert Elements(html).found == [("p", {"title": value})]


def test_half_a_surrogate_pair_is_written_as_a_question_mark():
    assert "a? b" in page("a\ud800 b", "", {})


def test_a_shade_is_darkest_where_nobody_looked():
    map_RC = np.zeros((7, 7), np.float32)
    map_RC[1, 5] = 1
    picture = Image.open(BytesIO(b64decode(shade(map_RC).split(",")[1])))
    alpha_HW = np.asarray(picture)[:, :, 1]
    rows, columns = np.nonzero(alpha_HW == alpha_HW.min())
    assert set(rows // 4) == {1}  # four pixels for each cell
    assert set(columns // 4) == {5}
    assert alpha_HW.min() < 15
    assert alpha_HW[-1, 0] == round(255 * DARKEST)


@pytest.mark.parametrize(
    ("name", "document", "complaint"),
    [
        ("scores.json", None, "scores.json: cannot be read: No such file"),
        ("scores.json", [], "scores.json: must hold JSON of type dict, got list"),
        ("captions.json", [{"image_id": 1, "caption": "another"}], "image_id 1 has another caption than in"),
        ("pictures.json", [{"image_id": 1}], r"pictures.json: \[0\] must be"),
        ("pictures.json", [], "pictures.json: holds no pictures"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(run, scenes, name, document, complaint):
    (run / name).unlink()
    if document is not None:
        write(run, name, document)
    with pytest.raises(ValueError, match=complaint):
        make(run, scenes)


def test_pictures_of_other_annotations_are_refused(run, scenes):
    captions = [{"image_id": 77, "caption": "a"}]
    write(run, "captions.json", captions)
    write(run, "pictures.json", captions)
    with pytest.raises(ValueError, match=r"image_id 77 is not in .*captions_val.json"):
        make(run, scenes)


def test_photos_that_are_not_there(run, scenes, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 8 photos to show can be read; the first: .*No such file"):
        make(run, (scenes[0], tmp_path))
    photo = "00000002.png"
    shutil.copy(scenes[1] / photo, tmp_path / photo)
    assert make(run, (scenes[0], tmp_path)).count("This photo could not be read.") == 14  # 7 by rank and at random


def test_other_numbers_of_examples_are_refused(run, scenes):
    with pytest.raises(ValueError, match=r"--examples must be in \[1, 40\], got 0"):
        make(run, scenes, "--examples", 0)


@pytest.fixture
def looked(run, scenes, tiny_bundle):
    """A run whose captions the tiny bundle made, all but the first."""
    captioner = Captioner.load(tiny_bundle, precision="fp32", threads=1)
    paths = sorted(path for path in scenes[1].iterdir() if path.name != HOSTILE_FILE)
    captions = [{"image_id": int(path.stem), "caption": captioner.caption(path)[0].text} for path in paths]
    captions.append({"image_id": 1, "caption": HOSTILE})
    write(run, "captions.json", captions)
    write(run, "pictures.json", [{**own, "scores": {"CIDEr": own["image_id"] / 10}} for own in captions])
    write(run, "scores.json", {**SCORES, "precision": "fp32", "bundle_version": captioner.bundle.version})
    return run


def test_words_carry_their_maps_where_the_caption_is_the_same(looked, scenes, tiny_bundle):
    html = make(looked, scenes, "--bundle", tiny_bundle, "--examples", 4)
    words = Elements(html.split(">Best</h2>")[1].split("</section>")[0]).of_class("word")
    texts = {own["image_id"]: own["caption"] for own in json.loads((looked / "captions.json").read_text())}
    assert len(words) == sum(len(texts[n].replace("'s", " 's").split()) for n in (5, 6, 7, 8))
    assert all(word["data-shade"].startswith("data:image/png;base64,") for word in words)
    assert "No maps: made again, the caption is" in html


def test_a_bundle_without_attention_has_no_maps(looked, scenes, tiny_bundle_inject, capsys):
    write(looked, "scores.json", SCORES)
    html = make(looked, scenes, "--bundle", tiny_bundle_inject)
    assert "has no attention" in capsys.readouterr().err
    assert not Elements(html).of_class("word")


def test_another_bundle_than_the_runs_is_refused(looked, scenes, tiny_bundle_inject):
    with pytest.raises(ValueError, match="the run was made with"):
        make(looked, scenes, "--bundle", tiny_bundle_inject)


@pytest.fixture(scope="module")
def answered(tiny_bundle_answers, tmp_path_factory):
    """The folder of `eval answers` on eight scenes, a hostile question and a broken picture among them."""
    folder = tmp_path_factory.mktemp("answered")
    draw_splits(folder, {"val": PICTURES})
    photos = sorted((folder / "val").iterdir())
    photos[-1].write_bytes(b"")
    kinds = [("is there", "yes/no", "is there a red dog?", "yes"), ("how many", "number", "how many are there?", "2")]
    questions, annotations = [], []
    for n, photo in enumerate(photos):
        for k, (question_type, answer_type, text, answer) in enumerate(kinds):
            number = {"question_id": 10 * n + k, "image_id": int(photo.stem)}
            questions.append({**number, "question": HOSTILE if n == k == 0 else text})
            people = [{"answer": answer}] * 7 + [{"answer": "no" if k == 0 else "dog"}] * 3
            annotations.append(
                {**number, "question_type": question_type, "answer_type": answer_type, "answers": people}
            )
    write(folder, "q.json", {"questions": questions})
    write(folder, "a.json", {"annotations": annotations})
    write(folder, "blind.json", [{"question_id": q["question_id"], "answer": "no"} for q in questions])
    out = folder / "out"
    flags = [
        f"--bundle={tiny_bundle_answers}",
        f"--questions={folder / 'q.json'}",
        f"--annotations={folder / 'a.json'}",
    ]
    flags += [f"--pictures={folder / 'val'}", "--naming={image_id:08d}.png", f"--out={out}"]
    flags += [f"--question-only={folder / 'blind.json'}", "--workers=0", "--threads=1"]
    assert command(["answers", *flags]) == 0
    return out


def make_answers(run, *flags):
    assert command(["report", "--answers", *map(str, (run, *flags))]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


def test_answers_have_their_own_sections(answered, tiny_bundle_answers):
    html = make_answers(answered, "--bundle", tiny_bundle_answers, "--examples", 3)
    groups = ["Best answers", "Worst answers", "Random answers"]
    wanted = ["Accuracy", "Question types", *groups, "Question-only gap", "Unanswered", "Provenance of the answers"]
    assert headings(html) == wanted
    assert "<h1>Answers by tiny</h1>" in html
    scores = json.loads((answered / "scores.json").read_text())
    low, high = (100 * end for end in scores["intervals"]["accuracy"])
    assert f"{low:.1f} to {high:.1f}" in html
    accuracy = html.split(">Accuracy</h2>")[1].split("</section>")[0]
    rows = [re.findall(r'data-value="([^"]*)"', row) for row in accuracy.split("<tr")[2:]]
    of_blind = scores["rows"]["question only"]
    assert [row[0] for row in rows] == ["tiny", "Question only"]
    each = [own["accuracy"] for own in of_blind["per_answer_type"].values()]
    assert list(map(float, rows[1][1:])) == [of_blind["metrics"]["accuracy"], *each]
    types = html.split(">Question types</h2>")[1].split("</section>")[0]
    assert re.findall(r'<th scope="row" data-value="([^"]*)"', types) == ["is there", "how many"]
    gap = scores["bias"]["gap"]
    assert f": looking {'adds' if gap >= 0 else 'loses'} {100 * abs(gap):.1f}." in html
    assert html.split(">Unanswered</h2>")[1].count("EMPTY_IMAGE") == 2


def test_best_and_worst_answers_are_by_accuracy_and_then_the_surest():
    details = {
        n: {"accuracy": accuracy, "probability": probability}
        for n, (accuracy, probability) in enumerate([(1, 0.5), (1, 0.9), (0, 0.2), (0, 0.8), (0.6, 0.4)])
    }
    best, worst, drawn = choose_questions(details, 12)
    assert best[2] == [1, 0, 4]
    assert worst[2] == [3, 2]
    assert sorted(drawn[2]) == [0, 1, 2, 3, 4]
    assert [title for title, _, _ in choose_questions({1: {}}, 2)] == ["Random answers"]


def test_a_card_shows_the_models_answers_the_peoples_and_the_map(answered, tiny_bundle_answers):
    html = make_answers(answered, "--bundle", tiny_bundle_answers, "--examples", 40)
    section = html.split(">Random answers</h2>")[1].split("</section>")[0]
    cards = section.split("<article>")[1:]
    details = {e["question_id"]: e for e in json.loads((answered / "questions.json").read_text())}
    assert len(cards) == 2 * PICTURES - 2
    for card in cards:
        own = details[int(re.search(r"question (\d+)</p>", card)[1])]
        assert [float(width) for width in re.findall(r'<rect width="([^"]*)"', card)] == [
            pytest.approx(100 * answer["probability"], abs=0.006) for answer in own["top"]
        ]
        # Seven and three of ten people: both have credit.
        credit = {"yes", "no"} if own["question_id"] % 10 == 0 else {"2", "dog"}
        ticked = re.findall(r'<span class="name">([^<]*)<span aria-label="as people said"', card)
        assert set(ticked) == credit & {answer["text"] for answer in own["top"]}
        assert ("yes × 7, no × 3" if own["question_id"] % 10 == 0 else "2 × 7, dog × 3") in card
        (word,) = Elements(card).of_class("word")
        assert word["data-shade"].startswith("data:image/png;base64,")
        assert word["data-told"].startswith(own["answer"])
    assert unescape(re.search(r'class="word"[^>]*>([^<]*&lt;script[^<]*)<', section)[1]) == HOSTILE
    assert not [name for _, own in Elements(html).found for name in own if name.startswith("on") or name == "style"]


def test_captions_and_answers_in_one_report(run, scenes, answered):
    html = make(run, scenes, "--answers", answered)
    assert "<h1>Captions and answers by an unnamed model and tiny</h1>" in html
    assert len(headings(html)) == len(set(headings(html)))
    assert {"Scores", "Accuracy", "Best", "Best answers"} <= set(headings(html))


def test_answers_without_a_run_or_of_another_bundle_are_refused(answered, tiny_bundle, tmp_path, capsys):
    assert command(["report"]) == 1
    assert "give --run, the folder of `eval captions`, --answers" in capsys.readouterr().err
    assert command(["report", "--run", str(answered)]) == 1
    assert "--run needs --annotations and --pictures" in capsys.readouterr().err
    assert command(["report", "--answers", str(tmp_path)]) == 1
    assert "settings.json: cannot be read" in capsys.readouterr().err
    assert command(["report", "--answers", str(answered), "--bundle", str(tiny_bundle)]) == 1
    assert "the answers were made with" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def open_page(browser, path, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())


def requested(browser):
    """Addresses that the page asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


def test_in_chromium(looked, scenes, tiny_bundle, browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    make(looked, scenes, "--bundle", tiny_bundle)
    open_page(browser, looked / "report.html", 1280)
    find = browser.find_elements

    def column(n):
        return [row.text.split("\n")[0] for row in find("css selector", f".sortable tbody tr > :nth-child({n})")]

    header, button = find("css selector", ".sortable th")[1], find("css selector", ".sortable th button")[1]
    assert column(2) == ["25.0", "20.0", "30.0"]
    button.click()
    assert (header.get_attribute("aria-sort"), column(2)) == ("descending", ["30.0", "25.0", "20.0"])
    button.send_keys(Keys.ENTER)
    assert (header.get_attribute("aria-sort"), column(2)) == ("ascending", ["20.0", "25.0", "30.0"])
    find("css selector", ".sortable th button")[2].click()
    assert column(3) == ["110.0", "90.0", "–"]  # what has no score comes last
    assert header.get_attribute("aria-sort") == "none"

    card = next(c for c in find("css selector", "article") if len(c.find_elements("css selector", ".word")) > 1)
    first, second, *_ = card.find_elements("css selector", ".word")
    shade = card.find_element("css selector", ".shade")
    assert not shade.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", card)
    ActionChains(browser).move_to_element(second).perform()
    assert shade.is_displayed()
    assert shade.get_attribute("src") == second.get_attribute("data-shade")
    assert (
        browser.execute_script("return arguments[0].naturalWidth", shade) > 0
    )  # it is a picture and the policy lets it in
    assert shade.size == card.find_element("css selector", ".frame img").size
    ActionChains(browser).move_to_element(header).perform()
    assert not shade.is_displayed()
    browser.execute_script("arguments[0].focus({preventScroll: true})", first)
    assert shade.get_attribute("src") == first.get_attribute("data-shade")
    first.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == second
    assert shade.get_attribute("src") == second.get_attribute("data-shade")
    browser.save_screenshot(tmp_path / "desktop.png")

    open_page(browser, looked / "report.html", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    browser.save_screenshot(tmp_path / "mobile.png")
    assert browser.get_log("browser") == []
    assert {address for address in requested(browser) if not address.startswith("data:")} == {
        (looked / "report.html").as_uri()
    }


def test_answers_in_chromium(answered, tiny_bundle_answers, browser, tmp_path):
    from selenium.webdriver import ActionChains

    make_answers(answered, "--bundle", tiny_bundle_answers)
    open_page(browser, answered / "report.html", 1280)
    card = browser.find_element("css selector", "article")
    shade, word = (card.find_element("css selector", name) for name in (".shade", ".word"))
    assert not shade.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", card)
    ActionChains(browser).move_to_element(word).perform()
    assert shade.is_displayed()
    assert browser.execute_script("return arguments[0].naturalWidth", shade) > 0
    bars = [bar.size for bar in card.find_elements("css selector", ".bar")]
    assert min(bar["width"] for bar in bars) > 40
    assert all(4 <= bar["height"] <= 12 for bar in bars)
    browser.save_screenshot(tmp_path / "desktop.png")
    open_page(browser, answered / "report.html", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.get_log("browser") == []
