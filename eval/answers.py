"""Answer a whole split with a bundle, by the engine that serves, and score it by the rules of the official VQA code.

    python -m eval answers --bundle B --questions Q.json --annotations A.json --pictures val2014 --out FOLDER
    python -m eval answers --annotations A.json --results answers.json --out scores.json

FOLDER gets answers.json (results for the evaluation server: [{"question_id", "answer"}, ...]), questions.json (each
question by itself), scores.json, throughput.json and, if something could not be asked, errors.json; its answer is "".
A killed run goes on where it was when the command is given again. Questions that bring choices (VQA v1) have
multiple_choice.json too. With --dialogs the questions are VisDial's, the annotations its dense ones, and candidates are
ranked: ranks.json. The second form scores anybody's results. The row of a model that never saw the pictures
(--question-only) belongs beside every VQA number.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from captioner.atomic import write_json
from captioner.captioner import Captioner
from eval.answer_results import ANSWERS, CHOICES, RANKS, Answers, load_answers, write_results
from eval.answer_scoring import QUESTION_ONLY, answers_table, evaluate_answers
from eval.answering import answer_batches, blind_answers, by_picture
from eval.coco import present
from eval.fields import read_json
from eval.journal import SETTINGS, Journal
from eval.questions import QuestionSplit, load_questions
from eval.results import commit, warn
from eval.scoring import check
from eval.stopwatch import throughput_line
from eval.visdial import load_visdial

WRITTEN = (
    ANSWERS,
    CHOICES,
    RANKS,
    "question_only.json",
    "questions.json",
    "scores.json",
    "errors.json",
    "throughput.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval answers`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--questions", type=Path, help="questions in the VQA layout, or VisDial's with --dialogs")
    add("--annotations", type=Path, help="people's answers in the VQA layout, or VisDial's dense annotations")
    add("--pictures", type=Path, help="the folder of the pictures")
    add("--naming", help='their file names, as "image{image_id}.jpg"; default: as the questions file says, or COCO\'s')
    add("--results", type=Path, help='answers to score instead of a bundle\'s: [{"question_id", "answer"}, ...]')
    add(
        "--out", type=Path, help="folder for the results; with --results the scores' file, and questions.json beside it"
    )
    add(
        "--question-only",
        type=Path,
        metavar="BUNDLE|RESULTS",
        help="a model that sees no picture, or its answers: a row",
    )
    add("--dialogs", action="store_true", help="rank the candidates of VisDial's questions")
    add("--precision", choices=("int8", "fp32"), help="default: int8 if the bundle has it")
    add("--batch-size", type=int, default=32, help="pictures at a time; default: 32")
    add("--limit", type=int, metavar="N", help="only the first N questions")
    add("--threads", type=int, help="of the engine; default: all cores")
    add("--workers", type=int, help="processes that decode pictures, 0: none of their own; default: as many as cores")
    add("--restart", action="store_true", help="throw away what a run with other settings left in the folder")
    add("--check", type=Path, metavar="SCORES", help="compare with this scores.json, and fail if a number differs")


def main(args: argparse.Namespace) -> None:
    """Answer or read answers, score, print, write."""
    _check_flags(args)
    if args.results:
        _score_results(args)
        return
    with ExitStack() as stack:
        if args.out is None:
            args.out = Path(stack.enter_context(TemporaryDirectory()))
        _run(args)


def load_asked(
    questions: Path, annotations: Path | None, pictures: Path, naming: str | None, dialogs: bool, limit: int | None
) -> QuestionSplit:
    """The questions that a run is about."""
    if dialogs:
        if naming is None:
            raise ValueError("--dialogs needs --naming, such as 'VisualDialog_val2018_{image_id:012d}.jpg'")
        split = load_visdial(questions, pictures, naming, annotations)
        # Where there are no candidates there is nothing to rank: the earlier rounds of a test set.
        chosen = [question for question in split.questions if question.choices]
        if not chosen:
            raise ValueError(f"{questions}: no question has candidates to rank")
        return replace(split, questions=tuple(chosen[:limit]))
    split = load_questions(questions, annotations, pictures, naming)
    kept = {question.question_id for question in split.questions[:limit]}
    own = tuple(annotation for annotation in split.annotations if annotation["question_id"] in kept)
    return replace(split, questions=split.questions[:limit], annotations=own)


def _check_flags(args: argparse.Namespace) -> None:
    for name in ("batch_size", "limit", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.workers is not None and args.workers < 0:
        raise ValueError(f"--workers must be at least 0, got {args.workers}")
    if args.bundle and args.results:
        raise ValueError("give --bundle, to answer questions, or --results, to score answers: not both")
    needed = ("annotations",) if args.results else ("questions", "pictures")
    if missing := [name for name in needed if getattr(args, name) is None]:
        raise ValueError(f"{'--results' if args.results else 'a run'} needs --{missing[0]}")
    if args.question_only and args.dialogs:
        raise ValueError("--question-only compares answers: with --dialogs there are only ranks")


def _score_results(args: argparse.Namespace) -> None:
    document = read_json(args.annotations)
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise ValueError(f"{args.annotations}: must hold a JSON object with a list of annotations")
    blind = load_answers(args.question_only) if args.question_only else None
    try:
        found, per_question = evaluate_answers(load_answers(args.results), document["annotations"], blind)
    except ValueError as e:
        raise ValueError(f"{args.results} against {args.annotations}: {e}") from e
    if blind is not None:
        found["rows"][QUESTION_ONLY]["about"] = args.question_only.name
    scores = {**found, "questions": len(per_question), "annotations": args.annotations.name,
              "results": args.results.name, "commit": commit()}  # fmt: skip
    print(answers_table(scores))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, scores)
        each = [{"question_id": n, "accuracy": accuracy} for n, accuracy in per_question.items()]
        write_json(args.out.with_name("questions.json"), each)
    if args.check:
        print(f"{check(scores, args.check)} scores equal those of {args.check}")


def _run(args: argparse.Namespace) -> None:
    split = load_asked(args.questions, args.annotations, args.pictures, args.naming, args.dialogs, args.limit)
    if not present(split.pictures)[0]:
        raise ValueError(f"none of the {len(split.pictures)} pictures is there: no file {split.pictures[0].path}")
    captioner = Captioner.load(args.bundle, precision=args.precision, threads=args.threads)
    answerer = captioner.bundle.model.answerer
    if answerer is None:
        raise ValueError(f"bundle {captioner.bundle.name} writes captions only: it answers no questions")
    open_ended = bool(captioner.bundle.answers) and not args.dialogs
    if not open_ended and not any(question.choices for question in split.questions):
        raise ValueError(f"bundle {captioner.bundle.name} only chooses between candidates: no question brings any")
    blind = _blind(args, split) if open_ended else None
    about = {"bundle": captioner.bundle.name, "bundle_version": captioner.bundle.version,
             "answerer": answerer.kind, "precision": captioner.precision}  # fmt: skip
    found = _answered(args, captioner, split, open_ended, about)
    if not found.results:
        raise ValueError(f"none of the {len(split.questions)} questions is answered; {found.errors[0]['message']}")
    scores = write_results(args.out, split, found, open_ended, args.dialogs, blind)
    if blind is not None:
        scores["rows"][QUESTION_ONLY]["about"] = args.question_only.name
    throughput = args.out / "throughput.json"
    speed = read_json(throughput)["questions_per_second"] if throughput.exists() else None
    words = [result["unknown_words"] for result in found.results.values()]
    scores |= {
        "questions": len(split.questions),
        "pictures": len(split.pictures),
        "errors": len(found.errors),
        "with_unknown_words": sum(map(bool, words)) / len(words),
        "annotations": split.annotations_file.name if split.annotations_file else split.questions_file.name,
        **about,
        "questions_per_second": speed,
        "commit": commit(),
    }
    write_json(args.out / "scores.json", scores)
    if not scores["metrics"]:
        warn("nothing is scored: there are no annotations")
        return
    print(answers_table(scores))
    if args.check:
        print(f"{check(scores, args.check)} scores equal those of {args.check}")


def _answered(
    args: argparse.Namespace, captioner: Captioner, split: QuestionSplit, open_ended: bool, about: Mapping[str, Any]
) -> Answers:
    """Ask what has not been asked; write throughput.json and errors.json."""
    settings: dict[str, Any] = dict(about)
    for name in ("questions", "annotations"):
        path = getattr(args, name)
        settings[name] = str(path.resolve()) if path else None
        settings[f"{name}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    settings |= {"pictures": str(args.pictures.resolve())}
    settings |= {name: getattr(args, name) for name in ("naming", "dialogs", "limit", "batch_size")}
    if args.restart and (args.out / SETTINGS).exists():
        for name in WRITTEN:
            (args.out / name).unlink(missing_ok=True)
    batches = by_picture(split, args.batch_size)
    with Journal(args.out, settings, args.restart) as journal:
        report = answer_batches(captioner, batches, journal, open_ended, args.workers)
        records = [journal.batches[n] for n in range(len(batches))]
    if report["questions"]:
        write_json(args.out / "throughput.json", report)
        print(f"{throughput_line(report)}; {report['questions_per_second']:.1f} questions a second")
    order = {question.question_id: n for n, question in enumerate(split.questions)}
    wrong = [error for record in records for error in (*record["errors"], *record["refused"])]
    errors = sorted(wrong, key=lambda error: order[error["question_id"]])
    if errors:
        write_json(args.out / "errors.json", errors)
        warn(f"{len(errors)} of {len(order)} questions are not answered: see {args.out / 'errors.json'}")
    else:
        (args.out / "errors.json").unlink(missing_ok=True)  # an earlier attempt's
    return Answers({result["question_id"]: result for record in records for result in record["results"]}, errors)


def _blind(args: argparse.Namespace, split: QuestionSplit) -> dict[int, str] | None:
    """The answers of the model that sees no picture, to the questions of the split."""
    if args.question_only is None:
        return None
    if split.annotations_file is None:
        raise ValueError("--question-only needs --annotations to be scored with")
    if args.question_only.is_dir():
        captioner = Captioner.load(args.question_only, precision=args.precision, threads=args.threads)
        answers = blind_answers(captioner, split.questions)
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "question_only.json", [{"question_id": n, "answer": a} for n, a in answers.items()])
        return answers
    answers = load_answers(args.question_only)
    if missing := [question.question_id for question in split.questions if question.question_id not in answers]:
        raise ValueError(f"{args.question_only}: question {missing[0]} has no answer")
    return {question.question_id: answers[question.question_id] for question in split.questions}
