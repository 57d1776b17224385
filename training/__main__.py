"""python -m training RECIPE --data FOLDER: train, or continue, a run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from captioner.config import AnswererKind
from training.loop import Places, fit
from training.recipes import RECIPES, with_answerer
from training.scenes import draw_splits


def main() -> int:
    """Parse the command line, train, print the best epoch."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder that the recipe's files are in; scenes draws its own")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/RECIPE); an unfinished run goes on")
    parser.add_argument("--features", type=Path, help="memory maps of pictures (default: features beside the run)")
    parser.add_argument(
        "--encoder-weights",
        default="random",
        help='"random", "torchvision", "torchvision:NAME", a weights file, or best.safetensors of a run',
    )
    parser.add_argument(
        "--heads", type=Path, metavar="RUN", help="a run whose captioner or answerer is what training begins with"
    )
    process = os.environ.get("LOCAL_RANK", "0")  # set by torchrun: a GPU for each process
    parser.add_argument("--device", default=f"cuda:{process}" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--answerer", choices=get_args(AnswererKind), help="another network for questions than the recipe's"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = args.out or Path("runs") / "-".join(filter(None, (args.recipe, args.answerer)))
    recipe = replace(RECIPES[args.recipe](), seed=args.seed)
    if args.recipe.startswith("scenes"):
        args.data = args.data or out.parent / "scenes-data"
        draw_splits(args.data)
    elif args.data is None:
        parser.error(f"--data is needed: the folder with {(recipe.train or recipe.train_questions[0]).annotations}")
    places = Places(args.data, out, args.features or out.parent / "features", args.encoder_weights, args.heads)
    try:
        recipe = recipe if args.answerer is None else with_answerer(recipe, args.answerer)
        best = fit(recipe, places, torch.device(args.device), args.checkpoint_seconds)
    except (ValueError, FloatingPointError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if process == "0":
        print(f"{out}: " + ", ".join(f"{name} {value:.4g}" for name, value in best.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
