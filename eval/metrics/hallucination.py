"""Objects that captions name and pictures do not hold, after CHAIR (Rohrbach et al., 2018, section 3).

    CHAIR_i = hallucinated mentions / mentions of objects,   CHAIR_s = captions with one / captions

A picture holds the categories of its COCO instances and what its reference captions name. The table of synonyms below
is our own and not the paper's: these are CHAIR-style numbers, to compare with each other and not with published ones. A
word of several categories ("bike", "glass") is right if any of them is there; words that fit too many ("food", "board")
are left out. Categories that are not COCO's ("red circle") go by their own names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.tokens import tokenize

Tokens = Sequence[str]
Phrases = Mapping[tuple[str, ...], frozenset[str]]
"""Categories that a phrase of tokens may mean; none if it only holds a name ("bus stop")."""

# By COCO category, separated by commas; the category's own name and all plurals are added.
SYNONYMS = {
    "person": "man, woman, boy, girl, child, kid, baby, infant, toddler, teen, teenager, guy, lady, gentleman, adult,"
    " male, female, human, someone, somebody, people, crowd, mother, father, mom, dad, son, daughter, brother, sister,"
    " wife, husband, bride, groom, friend, player, skier, snowboarder, surfer, skateboarder, skater, cyclist,"
    " bicyclist, biker, motorcyclist, rider, jockey, batter, catcher, umpire, athlete, swimmer, climber, hiker, runner,"
    " dancer, cowboy, cowgirl, fisherman, farmer, worker, chef, waiter, waitress, officer, policeman, policewoman,"
    " cop, fireman, firefighter, soldier, student, teacher, doctor, nurse, businessman, businesswoman, pedestrian,"
    " tourist, spectator, passenger, customer, shopper, vendor, driver, pilot, performer, musician",
    "bicycle": "bike, mountain bike",
    "car": "automobile, sedan, taxi, taxi cab, cab, suv, minivan, van, jeep, convertible, station wagon, police car",
    "motorcycle": "bike, motorbike, motor bike, motor cycle, dirt bike, scooter, motor scooter, moped, vespa",
    "airplane": "plane, aeroplane, aircraft, jet, jetliner, airliner, biplane, seaplane, fighter jet",
    "bus": "school bus, minibus, double decker, double decker bus, double-decker, double-decker bus, trolley, tour bus",
    "train": "locomotive, subway, tram, trolley, railcar, train car, train engine",
    "truck": "fire truck, firetruck, pickup, lorry, semi, tow truck, van, food truck, truck bed, fire engine, suv",
    "boat": "ship, sailboat, canoe, kayak, ferry, yacht, rowboat, gondola, raft, tugboat, motorboat, speedboat, barge",
    "traffic light": "stoplight, stop light, street light, traffic signal, red light, green light, streetlight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "meter",
    "bench": "park bench, pew",
    "bird": "seagull, gull, pigeon, duck, duckling, goose, gosling, swan, parrot, owl, eagle, hawk, hen,"
    " rooster, ostrich, sparrow, crow, pelican, penguin, peacock, heron, flamingo, parakeet, robin",
    "cat": "kitten, kitty, feline, tabby",
    "dog": "puppy, pup, doggy, canine, poodle, bulldog, terrier, retriever, dachshund, beagle, dalmatian, corgi,"
    " pug, pit bull, pitbull",
    "horse": "pony, foal, colt, mare, stallion, mustang",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, ox, heifer",
    "elephant": "",
    "bear": "polar bear, grizzly, grizzly bear, panda, panda bear, cub, bear cub",
    "zebra": "",
    "giraffe": "",
    "backpack": "bag, back pack, knapsack, rucksack, book bag",
    "umbrella": "parasol",
    "handbag": "bag, purse, pocketbook, tote, tote bag, hand bag",
    "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "bag, luggage, baggage, briefcase",
    "frisbee": "disc, disk, flying disc",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, volleyball, rugby ball, beach ball",
    "kite": "parasail",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt, baseball mitt, catcher 's mitt",
    "skateboard": "skate board, longboard",
    "surfboard": "surf board, boogie board, bodyboard, paddle board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "beer bottle, water bottle, wine bottle",
    "wine glass": "glass, wineglass, goblet, glass of wine",
    "cup": "glass, mug, teacup, coffee cup, tumbler",
    "fork": "utensil, silverware",
    "knife": "utensil, silverware, butter knife",
    "spoon": "utensil, silverware, ladle",
    "bowl": "",
    "banana": "fruit, plantain",
    "apple": "fruit",
    "sandwich": "burger, hamburger, cheeseburger, panini, hot dog",
    "orange": "fruit, tangerine, clementine, mandarin",
    "broccoli": "vegetable, veggie",
    "carrot": "vegetable, veggie",
    "hot dog": "hotdog, chili dog, sausage",
    "pizza": "pie",
    "donut": "doughnut, pastry, bagel",
    "cake": "cupcake, birthday cake, wedding cake, cheesecake, pie, dessert, pastry",
    "chair": "armchair, arm chair, recliner, stool, rocking chair, lawn chair, high chair, beach chair, office chair",
    "couch": "sofa, loveseat, love seat, futon, settee",
    "potted plant": "plant, houseplant, house plant, flower pot, planter, flower, bouquet",
    "bed": "bunk bed, bunk, crib, mattress, cot",
    "dining table": "table, kitchen table, dinner table, picnic table, coffee table, desk",
    "toilet": "commode, urinal, toilet seat, toilet bowl",
    "tv": "television, television set, television screen, tv screen, tv set, monitor, flat screen, computer, screen,"
    " computer monitor, computer screen, desktop computer",
    "laptop": "computer, laptop computer, notebook computer, notebook, netbook, monitor, screen, computer screen",
    "mouse": "computer mouse",
    "remote": "remote control, controller, game controller, wii controller, wii remote, wiimote, tv remote,"
    " television remote",
    "keyboard": "computer keyboard, computer",
    "cell phone": "phone, cellphone, telephone, smartphone, smart phone, mobile phone, iphone",
    "microwave": "microwave oven",
    "oven": "stove, stove top, stovetop, stove top oven",
    "toaster": "toaster oven",
    "sink": "wash basin, basin, washbasin",
    "refrigerator": "fridge, freezer, icebox",
    "book": "textbook, novel, paperback",
    "clock": "clock tower, alarm clock, wall clock, clock face, wristwatch",
    "vase": "",
    "scissors": "scissor, shears",
    "teddy bear": "teddy, stuffed animal, stuffed bear, stuffed toy, plush toy, toy bear, bear",
    "hair drier": "hair dryer, hairdryer, blow dryer, blow drier",
    "toothbrush": "tooth brush",
}
# "Baby elephant" is no person, and a passenger train no passenger.
PREFIXES = {
    **dict.fromkeys(
        ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
        ("baby", "adult", "mother", "father", "mom", "male", "female"),
    ),
    **dict.fromkeys(("car", "bus", "train", "airplane", "boat"), ("passenger",)),
}
# A name before one of these is not the thing: "train station", "toilet paper".
_OTHER_THINGS = """
    station track yard platform depot terminal lane lot line garage dealership house ramp paper brush food cage feeder
    juice pie pan cutter court field game diamond cap hat jersey uniform team player hoop slope resort pole boot suit
    shop shelf holder rack opener cloth top sheet tub plant pad hood booth door window wall jar
"""
# Nor do these name it; their last words are verbs elsewhere ("a horse stands").
_OTHER_PHRASES = (
    "bus stop, train stop, car park, dog park, skate park, ski lift, chair lift, ski jump, cake stand, hot dog stand,"
    " banana stand, pizza box, knife block, bed frame, car seat, tie dye, boat dock, mp3 player"
)
# Adjectives more often than not: things only where the caption ends or one of these follows.
ADJECTIVES = frozenset(("orange", "glass"))
_AFTER_A_THING = "in on with at by of near next beside behind under inside from for to is or that which sitting sits"
IRREGULAR = {
    **{"child": "children", "person": "people", "human": "humans", "goose": "geese", "mouse": "mice", "ox": "oxen"},
    **{"calf": "calves", "knife": "knives", "shelf": "shelves", "sheep": "sheep", "cattle": "cattle"},
}


@dataclass(frozen=True)
class Chair:
    """Hallucinated objects in one caption a picture."""

    captions: int
    mentions: int
    """Of objects, each time one is named."""
    hallucinated: dict[int, tuple[str, ...]]
    """What captions name that is not there, by image id, in the caption's words; only captions with any."""

    @property
    def chair_i(self) -> float:
        """Share of mentions that are hallucinated, in [0, 1]; 0 if nothing is mentioned."""
        return sum(map(len, self.hallucinated.values())) / self.mentions if self.mentions else 0.0

    @property
    def chair_s(self) -> float:
        """Share of captions with a hallucinated mention, in [0, 1]."""
        return len(self.hallucinated) / self.captions

    def as_dict(self) -> dict[str, float]:
        """The numbers, for a report."""
        return {
            "CHAIR_i": self.chair_i,
            "CHAIR_s": self.chair_s,
            "captions": self.captions,
            "mentions": self.mentions,
            "mentions_per_caption": self.mentions / self.captions,
        }


def chair(
    captions: Mapping[int, Tokens],
    categories: Mapping[int, Iterable[str]],
    references: Mapping[int, Sequence[Tokens]],
    phrases: Phrases,
) -> Chair:
    """Look for hallucinated objects in one tokenised caption a picture, all by image id.

    categories are the names of what its instances show, references its tokenised captions by people, phrases what
    object_phrases makes of the names of all categories. A caption without either is a ValueError, as is no caption.
    """
    if not captions:
        raise ValueError("there is no caption to look for objects in")
    mentioned, hallucinated = 0, {}
    for image_id, caption in captions.items():
        if image_id not in categories or image_id not in references:
            missing = "categories" if image_id not in categories else "references"
            raise ValueError(f"picture {image_id} has a caption and no {missing} to look for objects in")
        there = set(categories[image_id])
        for reference in references[image_id]:
            there.update(*(meant for _, meant in mentions(reference, phrases)))
        found = mentions(caption, phrases)
        mentioned += len(found)
        if wrong := tuple(phrase for phrase, meant in found if not meant & there):
            hallucinated[image_id] = wrong
    return Chair(len(captions), mentioned, hallucinated)


def mentions(caption: Tokens, phrases: Phrases) -> list[tuple[str, frozenset[str]]]:
    """Objects that a caption names, in order, with the categories that each may mean; the longest phrase counts."""
    found, start, longest = [], 0, max(map(len, phrases), default=0)
    while start < len(caption):
        for end in range(min(start + longest, len(caption)), start, -1):
            phrase = tuple(caption[start:end])
            if phrase in phrases:
                if phrases[phrase] and not _describes(phrase, caption[end] if end < len(caption) else None):
                    found.append((" ".join(phrase), phrases[phrase]))
                start = end
                break
        else:
            start += 1
    return found


def object_phrases(categories: Iterable[str]) -> dict[tuple[str, ...], frozenset[str]]:
    """The phrases that name these categories: each one's own name, its synonyms, and the plurals."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    found |= {tuple(phrase.split()): set() for phrase in _OTHER_PHRASES.split(", ")}
    for category in categories:
        for name in (category, *filter(None, SYNONYMS.get(category, "").split(", "))):
            words = tuple(tokenize(name))
            for before in ((), *((prefix,) for prefix in PREFIXES.get(category, ()))):
                found[before + words].add(category)
                found[(*before, *words[:-1], _plural(words[-1]))].add(category)
    return {phrase: frozenset(meant) for phrase, meant in found.items()}


def load_objects(instances: Path) -> tuple[list[str], dict[int, frozenset[str]]]:
    """Names of all categories of a COCO instances file, and those in each picture by image id; ValueError if wrong."""
    try:
        document = json.loads(instances.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in document["categories"]}
        there: dict[int, set[str]] = {image["id"]: set() for image in document["images"]}
        for annotation in document["annotations"]:
            there[annotation["image_id"]].add(names[annotation["category_id"]])
    except KeyError as e:
        raise ValueError(f"{instances}: no instances in COCO's layout: {e} is missing or unknown") from e
    except json.JSONDecodeError as e:
        raise ValueError(f"{instances}: not JSON: {e}") from e
    return list(names.values()), {image_id: frozenset(found) for image_id, found in there.items()}


def _describes(phrase: Tokens, following: str | None) -> bool:
    """Whether a name only describes what follows it."""
    if following is None:
        return False
    return following in OTHER_THINGS or (phrase[-1] in ADJECTIVES and following not in AFTER_A_THING)


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("man"):
        return f"{word[:-2]}en"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


OTHER_THINGS = frozenset(form for word in _OTHER_THINGS.split() for form in (word, _plural(word)))
AFTER_A_THING = frozenset(_AFTER_A_THING.split())
