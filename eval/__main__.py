"""python -m eval COMMAND: measure a bundle, or anybody's results; `python -m eval --help` lists the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from captioner.engine import EngineError
from eval import (
    answers,
    captions,
    card,
    footprint,
    frequencies,
    gallery,
    neighbours,
    official,
    peers,
    pointing,
    report,
    score,
    speed,
)

COMMANDS = {
    "answers": (answers, "score answers to questions as the official VQA code does"),
    "captions": (captions, "caption a split with a bundle and score it"),
    "card": (card, "write a bundle's model card from what was measured and a file of facts"),
    "footprint": (footprint, "time start, load and captions in fresh processes; memory and bytes"),
    "frequencies": (frequencies, "count n-grams of captions, for CIDEr"),
    "gallery": (gallery, "make a page of what a bundle says about photos that may be shipped"),
    "neighbours": (neighbours, "caption a split with the captions of similar training pictures"),
    "official": (official, "compare our scores and our time with coco-caption's own code"),
    "peers": (peers, "time one photo beside other libraries"),
    "pointing": (pointing, "see whether attention lies on the things that captions name"),
    "report": (report, "make one HTML page of an evaluation"),
    "score": (score, "score a file of COCO results"),
    "speed": (speed, "time one photo, stage by stage, beside eager torch"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for what the person can put right (one sentence on stderr), 2 for wrong flags."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, description) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=description, description=description))
    args = parser.parse_args(arguments)
    try:
        COMMANDS[args.command][0].main(args)
    except (ValueError, OSError, EngineError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
