"""VQA accuracy: examples on paper, and a second, literal reading of the rules on 10,000 generated questions."""

import random
from collections import defaultdict

import pytest

from eval.metrics.vqa import CONTRACTIONS, answer_accuracy, normalize_answer, vqa_accuracy

# What the official table changes in lower-case text.
TABLE = """
    'ow'sat:'ow's'at 'ows'at:'ow's'at aint:ain't arent:aren't cant:can't couldn'tve:couldn't've couldnt:couldn't
    couldnt've:couldn't've couldve:could've didnt:didn't doesnt:doesn't dont:don't hadn'tve:hadn't've hadnt:hadn't
    hadnt've:hadn't've hasnt:hasn't havent:haven't he'dve:he'd've hed:he'd hed've:he'd've hes:he's howd:how'd
    howll:how'll hows:how's isnt:isn't it'dve:it'd've itd:it'd itd've:it'd've itll:it'll maam:ma'am
    mightn'tve:mightn't've mightnt:mightn't mightnt've:mightn't've mightve:might've mustnt:mustn't mustve:must've
    neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at shant:shan't she'dve:she'd've
    shed've:she'd've shouldn'tve:shouldn't've shouldnt:shouldn't shouldnt've:shouldn't've shouldve:should've
    somebody'd:somebodyd somebody'dve:somebody'd've somebodyd've:somebody'd've somebodyll:somebody'll
    somebodys:somebody's someone'dve:someone'd've someoned:someone'd someoned've:someone'd've someonell:someone'll
    someones:someone's something'dve:something'd've somethingd:something'd somethingd've:something'd've
    somethingll:something'll thats:that's there'dve:there'd've thered:there'd thered've:there'd've therere:there're
    theres:there's they'dve:they'd've theyd:they'd theyd've:they'd've theyll:they'll theyre:they're theyve:they've
    twas:'twas wasnt:wasn't we'dve:we'd've wed've:we'd've werent:weren't weve:we've whatll:what'll whatre:what're
    whats:what's whatve:what've whens:when's whered:where'd wheres:where's whereve:where've who'dve:who'd've
    whod:who'd whod've:who'd've wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't
    wouldn'tve:wouldn't've wouldnt:wouldn't wouldnt've:wouldn't've wouldve:would've y'all'dve:y'all'd've
    y'alld've:y'all'd've y'allll:y'all'll yall:y'all yall'd've:y'all'd've yall'll:y'all'll you'dve:you'd've
    youd:you'd youd've:you'd've youll:you'll youre:you're youve:you've
"""
OFFICIAL_CONTRACTIONS = dict(pair.split(":") for pair in TABLE.split())


def question(question_id, people, question_type="what is", answer_type="other"):
    """An annotation in the VQA layout."""
    answers = [
        {"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(people, 1)
    ]  # the ids make every entry another, as in the real files
    names = {"question_type": question_type, "answer_type": answer_type}
    return {"question_id": question_id, "image_id": 1, "answers": answers, **names}


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_three_of_the_other_nine_make_an_answer_right(matches, accuracy):
    people = ["red"] * matches + [f"blue{n}" for n in range(10 - matches)]
    assert answer_accuracy("red", people) == pytest.approx(accuracy, abs=1e-12)


def test_answers_are_normalised_only_where_people_differ():
    assert answer_accuracy("Yes!", ["yes"] * 10) == 0
    assert answer_accuracy("Yes!", ["yes"] * 9 + ["no"]) == 1
    assert answer_accuracy("yes", ["Yes!"] * 9 + ["no"]) == 1
    assert answer_accuracy("the red", ["the red"] * 10) == 1  # nothing is taken from either side
    assert answer_accuracy("\tyes\n", [" yes "] * 10) == 1  # white space goes in any case
    assert answer_accuracy("yes", ["yes", " yes"] * 5) == 1  # and before they are compared


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Cat", "cat"),
        ("a", ""),
        ("none", "0"),
        ("Ten of the two", "10 of 2"),
        ("dont know", "don't know"),
        ("Im", "im"),  # the table's capital letters are never met
        ("somebody'd", "somebodyd"),
        ("red-blue", "red blue"),  # no space beside it: a space in its place
        ("red- blue", "red blue"),
        ("x-y - z", "xy z"),  # a space beside one of them: all go
        ("x/y - z", "x y z"),  # each mark by itself
        ("1,000", "1000"),
        ("1,000 a/b", "1000 ab"),  # a comma in a number, and no mark becomes a space
        ("10, 20", "10 20"),
        ("red,blue", "red blue"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("a.m.", "am"),
        (".5", ".5"),
        ("x.5", "x.5"),  # the look-behind does not work
        ("1.٣ 1.²", "1.٣ 1²"),  # digits are those of Unicode; a superscript is none
        ("." * 40 + "x", "." * 8 + "x"),  # only the first 32 points
        ("it's 5:30", "it's 5:30"),  # apostrophes and colons stay
        ("one-two", "1 2"),
        ("the-the", ""),
        ("", ""),
    ],
)
def test_normalisation_by_hand(text, normalised):
    assert normalize_answer(text) == normalised


def test_contractions_are_those_of_the_official_table():
    assert CONTRACTIONS == OFFICIAL_CONTRACTIONS


def test_means_by_type_and_the_official_rounding():
    annotations = [
        question(5, ["red"] * 10, "what color", "other"),
        question(6, ["yes"] * 2 + ["no"] * 8, "is the", "yes/no"),
        question(0, ["2"] * 3 + ["3"] * 7, "how many", "number"),
        question(8, ["left"] * 10, "what color", "other"),
    ]
    scores = vqa_accuracy({0: "two", 5: "red", 6: "yes", 8: "right"}, annotations)
    assert scores.per_question == pytest.approx({5: 1, 6: 0.6, 0: 0.9, 8: 0})
    assert list(scores.per_question) == [5, 6, 0, 8]
    assert scores.overall == pytest.approx(0.625)
    assert scores.per_question_type == pytest.approx({"what color": 0.5, "is the": 0.6, "how many": 0.9})
    assert scores.per_answer_type == pytest.approx({"other": 0.5, "yes/no": 0.6, "number": 0.9})
    assert scores.official["overall"] == 62.5
    assert scores.official["perAnswerType"] == {"other": 50.0, "yes/no": 60.0, "number": 90.0}
    assert scores.as_dict()["official"] == scores.official
    third = vqa_accuracy({1: "x", 2: "y", 3: "y"}, [question(n, ["x"] * 10) for n in (1, 2, 3)])
    assert third.official["overall"] == 33.33


def test_mistakes_are_named():
    annotation = question(0, ["yes"] * 10)
    with pytest.raises(ValueError, match="question 0 has no answer"):
        vqa_accuracy({}, [annotation])
    with pytest.raises(ValueError, match="question 7 has an answer and no annotation"):
        vqa_accuracy({0: "yes", 7: "no"}, [annotation])
    with pytest.raises(ValueError, match="question 0 is annotated twice"):
        vqa_accuracy({0: "yes"}, [annotation, annotation])
    with pytest.raises(ValueError, match="no question to score"):
        vqa_accuracy({}, [])
    with pytest.raises(ValueError, match="question 0 has no people's answers"):
        vqa_accuracy({0: "yes"}, [question(0, [])])
    del annotation["answer_type"]
    with pytest.raises(ValueError, match="question 0 has no 'answer_type'"):
        vqa_accuracy({0: "yes"}, [annotation])


# The rules once more, one step after the other, with neither regular expressions nor anything of the module's.

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def marks_out(text):
    comma_in_number = any(
        text[n].isdecimal() and text[n + 1] == "," and text[n + 2].isdecimal() for n in range(len(text) - 2)
    )
    out = text
    for mark in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        if (mark + " ") in text or (" " + mark) in text or comma_in_number:
            out = "".join(out.split(mark))
        else:
            out = " ".join(out.split(mark))
    kept, taken = [], 0
    for n, letter in enumerate(out):
        digit_follows = n + 1 < len(out) and out[n + 1].isdecimal()
        if letter == "." and not digit_follows and taken < 32:
            taken += 1
        else:
            kept.append(letter)
    return "".join(kept)


def words_out(text):
    words = []
    for word in text.lower().split():
        if word == "none":
            word = "0"
        if word in NUMBER_WORDS:
            word = str(NUMBER_WORDS.index(word))
        if word not in ("a", "an", "the"):
            words.append(word)
    return " ".join(OFFICIAL_CONTRACTIONS.get(word, word) for word in words)


def literal_accuracy(answer, people):
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    people = [text.replace("\n", " ").replace("\t", " ").strip() for text in people]
    if any(text != people[0] for text in people):
        people = [words_out(marks_out(text)) for text in people]
        answer = words_out(marks_out(answer))
    accuracies = []
    for left_out in range(len(people)):
        others = people[:left_out] + people[left_out + 1 :]
        accuracies.append(min(1, float(others.count(answer)) / 3))
    return float(sum(accuracies)) / len(accuracies)


MARKS = ";/[]\"{}()=+\\_-><@`,?!.'’:&%$#*٬。"
PIECES = [
    *("yes", "no", "red", "Blue", "tennis", "the", "a", "An", "none", "Zero", "TEN", "seven", "eleven", "2", "1,000"),
    *("3.5", "1,2,3", ".5", "5.", "12:30", "a.m.", "x.9", "...", "." * 33, ". " * 40, "1.٣", "٣,٤", "², 1.²", "½"),
    *("Café", "İstanbul", "straße", "日本 語", "１，２", "１,２", "a\u00a0b", "\u2003the", "e\u0301", "Σίσυφος", "ﬁve"),
    *(
        "Im",
        "I'dve",
        "don’t",
        "let's",
        "she's",
        "lets",
        "its",
        "\t",
        "\n",
        " ",
        "",
        "\r",
        "\x85",
        "a-b",
        "one-two",
        "the-a",
    ),
]
CONTRACTED = [*OFFICIAL_CONTRACTIONS, *OFFICIAL_CONTRACTIONS.values()]
CONTRACTED += [text.upper() for text in CONTRACTED]


def generated_text(rng):
    text = ""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 5])):
        piece = rng.choice(rng.choice([PIECES, CONTRACTED]))
        glue = rng.choice([" ", " ", " ", "", "\t", "\n", "  ", rng.choice(MARKS), f" {rng.choice(MARKS)}"])
        text += piece + glue
    return text


CHANGES = [
    *[lambda text, mark: text] * 4,
    lambda text, mark: text.upper(),
    lambda text, mark: f" {text} ",
    lambda text, mark: f"the {text}",
    lambda text, mark: f"{text}{mark}",
    lambda text, mark: f"{text} {mark}",
    lambda text, mark: f"{text}.",
    lambda text, mark: text.replace("'", ""),
    lambda text, mark: text.replace(" ", mark),
    lambda text, mark: text.replace(" ", "\t"),
    lambda text, mark: normalize_answer(text),
]


def variant(rng, text):
    """The same answer as another person might write it, or nearly."""
    return rng.choice(CHANGES)(text, rng.choice(MARKS))


def test_equals_the_literal_rules_on_generated_questions():
    rng = random.Random(7)
    answers, annotations, expected = {}, [], {}
    by_type = defaultdict(list)
    for question_id in range(10_000):
        base = [generated_text(rng) for _ in range(rng.choice([1, 2, 3]))]
        varied = rng.random() < 0.8
        people = [variant(rng, rng.choice(base)) if varied else base[0] for _ in range(10)]
        answers[question_id] = variant(rng, rng.choice(base))
        names = rng.choice(["what is", "is the", "how many"]), rng.choice(["other", "yes/no", "number"])
        annotations.append(question(question_id, people, *names))
        expected[question_id] = literal_accuracy(answers[question_id], people)
        for name in names:
            by_type[name].append(expected[question_id])
    scores = vqa_accuracy(answers, annotations)
    assert scores.per_question == expected
    levels = {level: sum(abs(score - level) < 1e-9 for score in expected.values()) for level in (0, 0.3, 0.6, 0.9, 1)}
    assert min(levels.values()) > 200, levels  # the questions do ask something
    percent = {name: round(100 * sum(own) / len(own), 2) for name, own in by_type.items()}
    assert scores.official["perQuestionType"] | scores.official["perAnswerType"] == percent
    assert scores.official["overall"] == round(100 * sum(expected.values()) / len(expected), 2)
    assert scores.overall == pytest.approx(scores.official["overall"] / 100, abs=5.1e-5)
