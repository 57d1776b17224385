"""python -m training.distill STUDENT --teacher NAME --pictures DIR...: a small encoder that sees like a large one.

The student learns the teacher's grid and its class scores on the same augmented view of each picture, for as long as
there is time (Beyer et al., 2022, "Knowledge distillation: a good teacher is patient and consistent"). No label is
needed, and no view comes twice: a few thousand pictures are soon known by heart. The class scores are the teacher's own
classifier on the student's mean (Chen et al., 2022, "Knowledge distillation with the reused teacher classifier"). The
finer grids of both are compared too, the student's by way of a 1 x 1 convolution (Romero et al., 2015, "FitNets: hints
for thin deep nets"). With --captioner a captioner on the teacher's grid says how much is lost for sentences
(training.speaker). All these helpers stay behind: what is saved is the student alone.

    loss = D(s, t) + KL(softmax(z_t) || softmax(z_s)) + sum over the finer grids of D(W s' + b, t') + KL of words
    D(s, t) = mean_c w_c (s_c - t_c)^2,    w_c = 1 / (var_c + mean of all var_c)
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch

from captioner.model import compact
from captioner.model.encoder import backbones, preprocessing_of
from training.distillation import Distillation, Settings
from training.features import pixels_of
from training.teacher import Teacher, pictures_in


def _growth(text: str) -> tuple[tuple[int, int], ...]:
    steps = [step.split(":") for step in text.split(",") if step]
    return tuple((int(size), int(epochs)) for size, epochs in steps)


def main() -> int:
    """Parse the command line, train, print the last epoch."""
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=__doc__.partition("\n\n")[0])
    parser.add_argument("student", choices=compact.NAMES, metavar="STUDENT", help=", ".join(compact.NAMES))
    parser.add_argument("--size", type=int, default=160, help="pixels of its pictures, in height and width (160)")
    parser.add_argument("--teacher", choices=backbones(), default="mobilenet_v2", metavar="NAME", help="mobilenet_v2")
    parser.add_argument("--teacher-weights", default="torchvision", help="as --encoder-weights of python -m training")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, metavar="DIR", help="training pictures")
    parser.add_argument("--validation", type=Path, nargs="+", required=True, metavar="DIR", help="never trained on")
    parser.add_argument("--mixed", type=float, default=Settings.mixed, help="share of views with two pictures (0.5)")
    parser.add_argument("--fall", type=float, default=Settings.fall, help="share with a falling rate (0.25)")
    parser.add_argument("--epochs", type=int, default=40, help="more may be given to a finished run (40)")
    parser.add_argument("--weights", default="random", metavar="FILE", help="of the student, or a bundle (random)")
    parser.add_argument(
        "--captioner", default="none", metavar="RUN",
        help="a training run that captions on the teacher's grid: the student learns what its sentences need (none)",
    )  # fmt: skip
    parser.add_argument(
        "--growth", type=_growth, default=Settings.growth, metavar="SIZE:EPOCHS,...",
        help="smaller sizes to begin with (64:16,96:8,128:8)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/STUDENT)")
    parser.add_argument("--features", type=Path, help="memory maps of pictures (default: features beside the run)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = args.out or Path("runs") / f"{args.student}_{args.size}"
    features = args.features or out.parent / "features"
    try:
        settings = Settings(
            args.student, args.size, args.teacher, args.growth, weights=args.weights, mixed=args.mixed,
            captioner=args.captioner, fall=args.fall,
        )  # fmt: skip
        size = preprocessing_of(args.teacher, settings.teacher_size, settings.teacher_size)
        train, validation = (pixels_of(size, pictures_in(x), 0, features) for x in (args.pictures, args.validation))
        photos = np.asarray(train.rows[:: max(1, len(train.rows) // 128)], np.uint8)
        device = torch.device(args.device)
        teacher = Teacher(args.teacher, settings.teacher_size, args.teacher_weights, device, photos)
        metrics = Distillation(settings, teacher, train, validation, out).run(args.epochs)
    except (ValueError, FloatingPointError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
