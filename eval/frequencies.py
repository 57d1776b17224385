"""Write the document frequencies of a set of captions, for CIDEr that does not depend on which pictures are scored.

python -m eval frequencies --annotations captions_train2017.json --out frequencies.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.coco import load_split
from eval.metrics import TOKENIZER
from eval.metrics.cider import document_frequencies
from eval.metrics.ptb import ptb_tokenize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval frequencies`."""
    parser.add_argument("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    parser.add_argument("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")


def main(args: argparse.Namespace) -> None:
    """Count and write."""
    split = load_split(args.annotations, Path(), args.split)
    references = [[ptb_tokenize(text) for text in own] for own in split.references.values()]
    if not references:
        raise ValueError(f"{split.name} holds no captions to count")
    found = document_frequencies(references, TOKENIZER)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found.save(args.out)
    print(f"{args.out}: {len(found.frequencies)} n-grams in the captions of {found.pictures} pictures")
