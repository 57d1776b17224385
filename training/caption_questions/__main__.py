"""python -m training.caption_questions --captions FILE --out FOLDER: write a VQA set; print its size and balance."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from eval.coco import load_split
from eval.results import table
from training.caption_questions.balance import Asked, balanced
from training.caption_questions.rules import KINDS, picture_questions
from training.caption_questions.vqa_files import known_answers, write_split


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, write the files, print the table."""
    parser = argparse.ArgumentParser(prog="python -m training.caption_questions", description=__doc__)
    parser.add_argument("--captions", type=Path, required=True, help="COCO's or Karpathy's layout")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of questions_NAME.json and annotations_NAME.json"
    )
    parser.add_argument("--split", help="of a file in Karpathy's layout: train, val, train+restval, ...")
    parser.add_argument("--name", help="NAME (default: the split, or the captions file's name less captions_)")
    parser.add_argument("--seed", type=int, default=0, help="decides which questions are kept (default: 0)")
    parser.add_argument("--answers-from", type=Path, metavar="ANNOTATIONS", help="keep only the answers of this file")
    args = parser.parse_args(arguments)
    try:
        asked = _write(args)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(table(summary(asked)))
    return 0


def _write(args: argparse.Namespace) -> Asked:
    pictures = load_split(args.captions, Path(), args.split).pictures
    name = args.name or args.split or args.captions.stem.removeprefix("captions_")
    known = known_answers(args.answers_from) if args.answers_from else None
    found = {picture.image_id: picture_questions(picture.captions) for picture in pictures}
    asked = balanced(found, len(pictures), args.seed, known)
    write_split(args.out, name, asked, pictures, f"Questions made of the captions of {args.captions.name}")
    return asked


def summary(asked: Asked) -> list[list[str]]:
    """Rows of the table: size and balance by kind. The last column is what always saying one answer would score."""
    rows = [["kind", "questions", "pictures", "answers", "commonest", "its share %"]]
    for kind in (*KINDS, "all"):
        pairs = [(i, q) for i, questions in asked.items() for q in questions if kind in (q.kind, "all")]
        counts = Counter(question.answer for _, question in pairs)
        answer, most = min(counts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        share = f"{100 * most / len(pairs):.1f}" if pairs else ""
        rows.append([kind, str(len(pairs)), str(len({i for i, _ in pairs})), str(len(counts)), answer, share])
    return rows


if __name__ == "__main__":
    sys.exit(main())
