"""What a bundle says about photos that may be shipped, good and bad: a page for a code host, and its pictures.

    python -m eval gallery --bundle B --out FOLDER
    python -m eval gallery --bundle B --photos MINE --out FOLDER

FOLDER gets gallery.md, NAME.jpg and NAME-looked.jpg for every photo, at the bundle's own search settings. Beside the
photos lies photos.json: questions with the answers that people would accept, and what a person thinks of captions:

    {"photos": [{"file": "cow.jpg", "judged": {"a cow on a meadow": "right"},
                 "questions": [{"question": "what is it?", "accept": ["cow"]}]}]}

A judgement belongs to a photo and a sentence: it stays true for another bundle that says the same, and a new sentence
is "not judged" until a person adds it. A folder without photos.json is captioned and nothing is asked. Where the photos
in eval/gallery come from stands in its SOURCES.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from captioner.atomic import replace_file, write_text
from captioner.captioner import Captioner
from captioner.figure import attention_figure
from captioner.images import BadImage, photo_files, read_photo
from captioner.results import Answered, Caption
from eval import fields

PHOTOS = Path(__file__).parent / "gallery"
ABOUT = "photos.json"
PAGE = "gallery.md"
SHOWN = 320
"""Height of a photo in the files, in pixels: more than on the page, for fine screens."""
ON_PAGE = 230
"""Height of a photo on the page."""
WIDEST = 960
"""Of a picture of attention."""
QUALITY = 76

Judgement = Literal["right", "partly", "wrong", "not judged"]
MARKS: dict[Judgement, str] = {"right": "✅", "partly": "🟡", "wrong": "❌", "not judged": "◻️"}


@dataclass(frozen=True)
class Asked:
    """A question about a photo."""

    question: str
    accept: tuple[str, ...]
    """Answers that people would let pass."""


@dataclass(frozen=True)
class GalleryPhoto:
    """A photo and what people know about it."""

    path: Path
    questions: tuple[Asked, ...] = ()
    judged: dict[str, Judgement] = field(default_factory=dict)
    """What a person thinks of a caption, by its text."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A photo and what a bundle says about it."""

    photo: GalleryPhoto
    caption: Caption | None
    answers: tuple[tuple[Asked, Answered], ...]
    looked: bool
    """Whether there is a picture of where it looked."""

    @property
    def name(self) -> str:
        """Of its files and its place on the page."""
        return self.photo.path.stem

    @property
    def judgement(self) -> Judgement:
        """Of the caption."""
        return self.photo.judged.get(self.caption.text, "not judged") if self.caption else "not judged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval gallery`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--photos", type=Path, default=PHOTOS, help=f"folder of photos and {ABOUT}; default: eval/gallery")
    add("--precision", choices=("int8", "fp32"), help="default: int8 if the bundle has it")
    add("--threads", type=int, help="of the engine; default: all cores")
    add("--out", type=Path, required=True, help="folder for the page and its pictures")


def main(args: argparse.Namespace) -> None:
    """Caption, ask, draw, write."""
    photos = load_photos(args.photos)
    captioner = Captioner.load(args.bundle, precision=args.precision, threads=args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    shown = [show(captioner, photo, args.out) for photo in photos]
    sources = args.photos / "SOURCES.md"
    text = page(captioner, shown, sources.read_text(encoding="utf-8") if sources.exists() else "")
    write_text(args.out / PAGE, text)
    for one in shown:
        print(f"{one.name}: {one.caption.text if one.caption else '-'} ({one.judgement})")
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.is_file())
    print(f"{args.out / PAGE}: {summary(shown)} {size / 1e6:.2f} MB in the folder.")


def load_photos(folder: Path) -> list[GalleryPhoto]:
    """The photos of photos.json in its order, or those of the folder by name; ValueError names what is wrong."""
    about = folder / ABOUT
    if not about.exists():
        return [GalleryPhoto(path) for path in photo_files(folder)]
    entries = fields.field(fields.read_json(about), f"{about}: ", "photos", list)
    photos = [_photo(folder, entry, f"{about}: photos[{n}]") for n, entry in enumerate(entries)]
    if twice := [name for name, times in Counter(photo.path.stem for photo in photos).items() if times > 1]:
        raise ValueError(f"{about}: {twice[0]} is there twice")
    return photos


def show(captioner: Captioner, photo: GalleryPhoto, out: Path) -> Shown:
    """Everything the bundle says about one photo; its pictures are written."""
    try:
        pixels_HW3 = read_photo(photo.path)
    except BadImage as e:
        raise ValueError(f"{photo.path}: {e}") from e
    model = captioner.bundle.model
    caption = captioner.caption_batch([photo.path])[0][0] if model.captions else None
    asked = photo.questions if model.answerer else ()
    answers = tuple((one, captioner.answer(photo.path, one.question, top=1)) for one in asked)
    small = Image.fromarray(pixels_HW3)
    small.thumbnail((10 * SHOWN, SHOWN), Image.Resampling.LANCZOS)
    _save(small, out / f"{photo.path.stem}.jpg")
    looked = caption is not None and model.attention != "none"
    if caption is not None and looked:
        figure = attention_figure(pixels_HW3, caption)
        figure.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
        _save(figure, out / f"{photo.path.stem}-looked.jpg")
    return Shown(photo, caption, answers, looked)


def summary(shown: Sequence[Shown]) -> str:
    """How many captions and answers are right, in a sentence or two."""
    sentences = []
    if any(one.caption for one in shown):
        counts = Counter(one.judgement for one in shown)
        each = ", ".join(f"{counts[judgement]} {judgement}" for judgement in get_args(Judgement) if counts[judgement])
        sentences.append(f"{len(shown)} captions: {each}.")
    answers = [accepted(asked, answered) for one in shown for asked, answered in one.answers]
    if answers:
        sentences.append(f"{sum(answers)} of {len(answers)} answers are among those that people would accept.")
    return " ".join(sentences)


def accepted(asked: Asked, answered: Answered) -> bool:
    """Whether the first answer is one that people would let pass."""
    return answered.answers[0].text.lower() in {text.lower() for text in asked.accept}


def page(captioner: Captioner, shown: Sequence[Shown], sources: str = "") -> str:
    """The page in Markdown; `sources` is put at its end, one heading lower."""
    bundle, search = captioner.bundle, captioner.bundle.search
    how = f"`{bundle.name}`, version `{bundle.version}`, {captioner.precision} graphs"
    if bundle.model.captions:
        how += f"; k = {search.beam_size}, at most {search.max_words} words, the first caption of each photo as it is"
    lines = [f"# What {bundle.name} says about {len(shown)} photos", "", f"{how}. {summary(shown)}"]
    if bundle.model.captions:
        lines += [
            "",
            "Captions were judged by eye; successes are on the left and failures on the right, while there are both.",
        ]
    lines += ["", "<table>", *(line for pair in side_by_side(shown) for line in _row(pair)), "</table>"]
    if drawn := [one for one in shown if one.looked]:
        lines += ["", "## Where it looked, word by word"]
        for n, one in enumerate(drawn):
            lines += ["", *_unfolding(one, is_open=n == 0)]
    if sources:
        lines += ["", *(f"#{line}" if line.startswith("#") else line for line in sources.splitlines())]
    return "\n".join(lines).rstrip() + "\n"


def side_by_side(shown: Sequence[Shown]) -> Iterator[tuple[Shown, Shown | None]]:
    """Pairs for the rows: what is right beside what is not, the worst first; then what is left, two by two."""
    good, partly, wrong, rest = ([one for one in shown if one.judgement == kind] for kind in get_args(Judgement))
    bad = wrong + partly
    both = min(len(good), len(bad))
    yield from zip(good[:both], bad[:both], strict=True)
    left = good[both:] + bad[both:] + rest
    yield from zip_longest(left[::2], left[1::2])


def _row(pair: Sequence[Shown | None]) -> list[str]:
    return ["<tr>", *(_cell(one) if one else "<td></td>" for one in pair), "</tr>"]


def _cell(one: Shown) -> str:
    picture = f'<img src="{escape(one.name)}.jpg" height="{ON_PAGE}" alt="{escape(one.name.replace("_", " "))}">'
    lines = [picture]
    if one.caption:
        lines.append(f"<b>{escape(one.caption.text)}</b> {MARKS[one.judgement]} {one.judgement}")
    for asked, answered in one.answers:
        best, mark = answered.answers[0], MARKS["right" if accepted(asked, answered) else "wrong"]
        percent = f"{100 * best.probability:.0f} %"
        lines.append(f"{mark} <i>{escape(asked.question)}</i> {escape(best.text)} ({percent})")
    return f'<td width="50%" valign="top">{"<br>".join(lines)}</td>'


def _unfolding(one: Shown, is_open: bool) -> list[str]:
    assert one.caption is not None
    title = f"{escape(one.name.replace('_', ' '))}: {escape(one.caption.text)}"
    picture = f'<img src="{escape(one.name)}-looked.jpg" alt="where it looked for each word of: {title}">'
    return [f"<details{' open' if is_open else ''}>", f"<summary>{title}</summary>", picture, "</details>"]


def _photo(folder: Path, entry: object, where: str) -> GalleryPhoto:
    file = fields.field(entry, where, "file", str)
    judged = fields.field(entry, where, "judged", dict)
    for caption, judgement in judged.items():
        if judgement not in MARKS:
            raise ValueError(
                f"{where}.judged[{caption!r:.60}] must be one of {', '.join(MARKS)}, got {judgement!r:.40}"
            )
    questions = []
    for n, asked in enumerate(fields.field(entry, where, "questions", list)):
        place = f"{where}.questions[{n}]"
        accept = fields.field(asked, place, "accept", list)
        texts = tuple(fields.checked(text, f"{place}.accept[{i}]", str) for i, text in enumerate(accept))
        questions.append(Asked(fields.field(asked, place, "question", str), texts))
    return GalleryPhoto(folder / file, tuple(questions), judged)


def _save(picture: Image.Image, path: Path) -> None:
    replace_file(path, lambda file: picture.save(file, "JPEG", quality=QUALITY, optimize=True, progressive=True))
