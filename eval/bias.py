"""Two biases that scores hide: gender said against gender seen, and questions answered without looking.

Captions: what references agree on against what the caption says, and whether the model looks at a person when it says a
gendered word, after Hendricks et al. (2018), "Women also Snowboard"; the word lists are ours. Questions: what a model
reaches without the picture (Jabri et al., 2016; Goyal et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from captioner.results import Caption
from eval.pointing import Box, Boxed, hits

Tokens = Sequence[str]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WOMAN = _words("""
    woman women girl girls lady ladies females mother mothers mom moms daughter daughters sister sisters wife wives
    girlfriend girlfriends aunt grandmother grandma bride brides bridesmaid bridesmaids waitress waitresses actress
    policewoman businesswoman businesswomen cowgirl schoolgirl schoolgirls ballerina gal gals
""")
MAN = _words("""
    man men boy boys guy guys gentleman gentlemen males father fathers dad dads son sons brother brothers husband
    husbands boyfriend uncle grandfather grandpa groom grooms groomsmen waiter waiters actor policeman policemen
    businessman businessmen cowboy cowboys fisherman fishermen fireman firemen schoolboy schoolboys dude dudes
""")
NEUTRAL = _words("""
    person people persons human humans someone somebody individual individuals adult adults child children kid kids
    baby babies toddler toddlers infant teen teens teenager teenagers player players rider riders skier skiers surfer
    surfers snowboarder snowboarders skateboarder skateboarders skater skaters cyclist cyclists bicyclist biker bikers
    batter catcher umpire athlete athletes swimmer swimmers climber climbers hiker hikers runner runners dancer dancers
    worker workers chef chefs officer officers soldier soldiers student students doctor doctors pedestrian pedestrians
    tourist tourists passenger passengers family friends crowd performer musician parent parents
""")
# Said of animals and things as well ("an elephant and her calf"): they count beside a word for a person.
GENDERED = WOMAN | MAN
SHE = _words("she her hers herself female")
HE = _words("he him his himself male")
COLUMNS = ("woman", "man", "both", "neutral", "none")
"""What a caption may say: both genders; a person without a gender; nobody."""


@dataclass(frozen=True)
class Looks:
    """Where attention peaks when a caption says a noun of WOMAN or MAN about a picture with boxes of persons."""

    words: int
    """Such nouns said."""
    share: float
    """Of them, with the peak inside a person's box; in [0, 1]."""
    chance: float
    """What a random cell of the grid would reach on the same words."""


@dataclass(frozen=True)
class GenderBias:
    """Genders that captions say, of the pictures whose references agree on one."""

    table: dict[str, dict[str, int]]
    """Pictures by the gender of the references (woman, man) and what the caption says (COLUMNS)."""
    looks: Looks | None
    """None without attention, without boxes or where no gendered noun is said."""

    @property
    def pictures(self) -> int:
        """How many have a gender."""
        return sum(sum(row.values()) for row in self.table.values())

    def error(self, gender: str | None = None) -> float | None:
        """Share of the pictures of a gender (None: of both) whose caption says the other one; None if there is none."""
        rows = (gender,) if gender else ("woman", "man")
        wrong = sum(self.table[row]["man" if row == "woman" else "woman"] for row in rows)
        total = sum(sum(self.table[row].values()) for row in rows)
        return wrong / total if total else None

    @property
    def ratio_said(self) -> float | None:
        """Captions that say woman over those that say man, among these pictures; None if no caption says man."""
        return _ratio(*(sum(row[said] for row in self.table.values()) for said in ("woman", "man")))

    @property
    def ratio_seen(self) -> float | None:
        """Pictures of women over those of men by the references; None if there is none of men."""
        return _ratio(*(sum(self.table[gender].values()) for gender in ("woman", "man")))

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for a report."""
        return {
            "pictures": self.pictures,
            "table": self.table,
            "error": self.error(),
            "error_woman": self.error("woman"),
            "error_man": self.error("man"),
            "ratio_said": self.ratio_said,
            "ratio_seen": self.ratio_seen,
            "looks": asdict(self.looks) if self.looks else None,
        }


@dataclass(frozen=True)
class QuestionOnlyGap:
    """VQA accuracy beside that of a model that reads the question and sees no picture; in [0, 1]."""

    accuracy: float
    question_only: float

    @property
    def gap(self) -> float:
        """What the picture adds."""
        return self.accuracy - self.question_only

    def as_dict(self) -> dict[str, float]:
        """The numbers, for a report."""
        return {**asdict(self), "gap": self.gap}


def question_only_gap(accuracy: float, question_only_accuracy: float) -> QuestionOnlyGap:
    """Set an accuracy beside the question-only one; a value outside [0, 1] is a ValueError."""
    for name, value in (("accuracy", accuracy), ("question_only_accuracy", question_only_accuracy)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    return QuestionOnlyGap(accuracy, question_only_accuracy)


def gender_bias(
    captions: Mapping[int, Tokens],
    references: Mapping[int, Sequence[Tokens]],
    attention: Mapping[int, Caption] | None = None,
    boxed: Iterable[Boxed] = (),
) -> GenderBias:
    """Compare one tokenised caption a picture with its references, by image id; without references it is left out.

    attention are captions with their maps, boxed are pictures with boxes (load_boxes): both together give looks.
    """
    table = {gender: dict.fromkeys(COLUMNS, 0) for gender in ("woman", "man")}
    for image_id, caption in captions.items():
        if gender := reference_gender(references.get(image_id, ())):
            table[gender][said(caption)] += 1
    return GenderBias(table, where_it_looks(attention, boxed) if attention else None)


def said(caption: Tokens) -> str:
    """Which of COLUMNS a caption says."""
    words = set(caption)
    person = bool(words & (NEUTRAL | WOMAN | MAN))
    woman = bool(words & WOMAN or (person and words & SHE))
    man = bool(words & MAN or (person and words & HE))
    if woman and man:
        return "both"
    if woman or man:
        return "woman" if woman else "man"
    return "neutral" if person else "none"


def reference_gender(references: Iterable[Tokens]) -> str | None:
    """The gender that some reference says and none contradicts; None otherwise."""
    genders = {said(reference) for reference in references} & {"woman", "man", "both"}
    return genders.pop() if genders in ({"woman"}, {"man"}) else None


def where_it_looks(captions: Mapping[int, Caption], boxed: Iterable[Boxed]) -> Looks | None:
    """Play the pointing game with gendered nouns; a category counts as persons if it is called "person"."""
    found: list[bool] = []
    chances: list[float] = []
    for picture in boxed:
        persons, caption = picture.boxes.get(("person",)), captions.get(picture.image_id)
        if not persons or caption is None or not all(word.attention is not None for word in caption.words):
            continue
        nouns = {(word,): persons for word in sorted({word.text for word in caption.words} & GENDERED)}
        here = hits(caption, replace(picture, boxes=nouns))
        found += here
        if here:
            chances += [_covered(persons, caption.words[0].attention.shape)] * len(here)
    return Looks(len(found), float(np.mean(found)), float(np.mean(chances))) if found else None


def _covered(boxes: Iterable[Box], shape: tuple[int, ...]) -> float:
    """Share of the cells of a grid whose centre lies in one of the boxes: overlaps count once."""
    y, x = ((np.arange(cells) + 0.5) / cells for cells in shape)
    inside = np.zeros(shape, bool)
    for left, top, width, height in boxes:
        columns, rows = (left <= x) & (x <= left + width), (top <= y) & (y <= top + height)
        inside |= rows[:, None] & columns[None]
    return float(inside.mean())


def _ratio(women: int, men: int) -> float | None:
    return women / men if men else None
