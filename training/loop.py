"""The training loop: resumable at any step, and bit for bit the same on a CPU whether or not it was interrupted.

Nothing random is carried along: the order comes from (seed, epoch) and dropout from (seed, step).
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from captioner.atomic import replace_file, write_json
from captioner.lexicon import Lexicon
from captioner.model.calibration import QUESTIONS
from captioner.model.export import EXAMPLE_QUESTIONS
from captioner.model.network import Network
from captioner.model.runs import take_heads
from training import checkpoint
from training.average import follow
from training.calibrate import calibrate
from training.data import PictureSet, TrainingBatches, picture_set, pictures_of
from training.features import encoder_digest
from training.loss import TrainingLoss
from training.questions import QuestionBatches, Reader
from training.recipe import Recipe
from training.reward import References, sampled_batch
from training.splits import Data, lexicon_of, load
from training.steps import Step, Steps
from training.validate import Validation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves its files."""

    data: Path
    """Folder that the recipe's files are relative to."""
    out: Path
    """The run: checkpoints, weights, vocabulary, one line of metrics an epoch."""
    features: Path
    """Memory maps of pictures, shared by runs."""
    encoder_weights: str = "random"
    """See captioner.model.encoder.Encoder."""
    heads: Path | None = None
    """A run whose captioner and answerer, as far as the recipe has them, are what training begins with."""


def fit(recipe: Recipe, places: Places, device: torch.device, checkpoint_seconds: float = 60.0) -> dict[str, float]:
    """Train to the end and return the best epoch's validation metrics; continues what `places.out` holds.

    The run's folder then has best.safetensors (the averaged weights with the best validation), run.json,
    vocabulary.json, metrics.jsonl and TensorBoard's files. Under torchrun, the processes share each batch.
    """
    with _processes(device) as (process, processes):
        if process == 0:
            places.out.mkdir(parents=True, exist_ok=True)
        data = load(recipe, places.data)
        lexicon = lexicon_of(recipe, data)
        torch.manual_seed(recipe.seed)
        network = Network(recipe.model, encoder_weights=places.encoder_weights, **lexicon.sizes).to(device)
        if places.heads is not None:
            take_heads(network, lexicon, places.heads)
        pictures = pictures_of(data.captions, data.questions)
        if places.encoder_weights == "random":
            calibrate(network.encoder, recipe.model.preprocessing, pictures)
        trains = recipe.fine_tune is not None
        network.encoder.fine_tune_from(recipe.fine_tune)
        network.train()
        if process > 0:
            dist.barrier()  # the first process makes the caches, the others find them
        images = picture_set(pictures, network, trains, recipe.views, places.features)
        later = [data.validation_questions] if data.validation_questions else []
        validation_images = picture_set(
            pictures_of(data.validation_captions, later), network, trains, 1, places.features
        )
        if processes > 1 and process == 0:
            dist.barrier()
        steps = _steps(recipe, data, images, lexicon, process, processes)
        validation = Validation(recipe, validation_images, lexicon, data.validation_questions, device)
        run = _Run(recipe, places, network, lexicon, steps, validation, device, process, processes)
        return run.go(checkpoint_seconds)


def _steps(recipe: Recipe, data: Data, images: PictureSet, lexicon: Lexicon, process: int, processes: int) -> Steps:
    captions = questions = None
    if data.captions is not None:
        captions = TrainingBatches(
            images, lexicon.captions, recipe.batch_pictures, recipe.longest, recipe.seed, process, processes
        )
    if recipe.model.answerer is not None:
        asked = [question for split in data.questions for question in split.questions]
        reader = Reader(recipe.model.answerer, lexicon, recipe.longest)
        questions = QuestionBatches(
            images, asked, reader, recipe.batch_pictures, recipe.seed, recipe.word_dropout, process, processes
        )
    return Steps(captions, questions)


@contextmanager
def _processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """This process's number and how many there are; joins them if torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The others wait while the first makes the caches: hours for a big encoder.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


class _Run:
    """The state of a run and its steps."""

    def __init__(
        self, recipe: Recipe, places: Places, network: Network, lexicon: Lexicon, steps: Steps,
        validation: Validation, device: torch.device, process: int, processes: int,
    ):  # fmt: skip
        self.recipe, self.network, self.lexicon = recipe, network, lexicon
        self.data, self.out = places.data.resolve(), places.out
        self.steps, self.validation, self.device = steps, validation, device
        self.process, self.processes = process, processes
        self.loss: nn.Module = TrainingLoss(
            network, recipe.label_smoothing, recipe.doubly_stochastic, recipe.answer_weight, recipe.entropy_weight
        )
        if processes > 1:
            self.loss = nn.parallel.DistributedDataParallel(self.loss, broadcast_buffers=False)
        self.first_self_critical = recipe.epochs * len(steps)
        self.self_critical, self.references = False, None
        self._start_phase()
        self.step, self.loss_sum = 0, 0.0
        self.epochs = recipe.epochs + recipe.self_critical_epochs
        self.best: dict[str, float] = {}
        cuda = device.type == "cuda"
        half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float16
        self.autocast = (lambda: torch.autocast("cuda", half)) if cuda else nullcontext
        self.scaler = torch.amp.GradScaler("cuda", enabled=cuda and half == torch.float16)
        self.settings = {
            "recipe": json.loads(json.dumps(asdict(recipe))),
            "words": sha256(
                repr((lexicon.captions.words, lexicon.questions.words, lexicon.answers)).encode()
            ).hexdigest(),
            "encoder_weights": places.encoder_weights,
            "heads": None if places.heads is None else str(places.heads),
            "encoder": encoder_digest(network.encoder, recipe.model.preprocessing),
            "grid": list(network.grid),
        }

    def _start_phase(self) -> None:
        self.optimizer = torch.optim.AdamW(parameter_groups(self.recipe, self.network), betas=(0.9, 0.98), fused=True)
        self.average = {name: value.detach().clone() for name, value in self._trained().items()}

    def _start_self_critical(self) -> None:
        """Go on from the best weights so far, as if a run began."""
        if self.process == 0:
            self.network.load_state(load_file(self.out / "best.safetensors"))
        if self.processes > 1:
            for tensor in self.network.state().values():
                dist.broadcast(tensor, src=0)
        self.self_critical = True
        self._start_phase()
        if self.process == 0:  # or a resumed run would begin it anew, from weights that are no longer the best so far
            checkpoint.save(self.out, self.step, self._state())

    def go(self, checkpoint_seconds: float) -> dict[str, float]:
        self._resume()
        if self.process == 0:
            self.lexicon.save(self.out, self.recipe.model)
            if self.steps.questions is not None:
                examples = [question.text for question in self.steps.questions.questions[:QUESTIONS]]
                write_json(self.out / EXAMPLE_QUESTIONS, examples)
            write_json(self.out / "run.json", {**self.settings, "data": str(self.data)})
        again = self.step // len(self.steps) + 1  # the first epoch whose scalars are not final
        writer = SummaryWriter(self.out / "tensorboard", purge_step=again) if self.process == 0 else None
        while (epoch := self.step // len(self.steps)) < self.epochs:
            started = time.monotonic()
            if self.step == self.first_self_critical and not self.self_critical:
                self._start_self_critical()
            self._epoch(epoch, checkpoint_seconds)
            self._agree()
            with self._averaged():
                metrics = self.validation(self.network)
                better = metrics[self.recipe.keep_best_by] > self.best.get(self.recipe.keep_best_by, -math.inf)
                if better:
                    self.best = {"epoch": epoch + 1, **metrics}
                    if self.process == 0:
                        replace_file(self.out / "best.safetensors", self.network.save)
            name = "sampled_Bleu_4" if self.self_critical else "loss"
            line = {"epoch": epoch + 1, "step": self.step, name: self.loss_sum / len(self.steps), **metrics}
            self.loss_sum = 0.0
            if self.process == 0 and writer:
                seconds = round(time.monotonic() - started, 1)
                checkpoint.add_epoch(self.out, {**line, "kept": better, "seconds_since_start_or_resume": seconds})
                for name, value in line.items():
                    writer.add_scalar(name, value, epoch + 1)
                writer.flush()
                log.info("%s", " ".join(f"{k}={v:.4g}" for k, v in line.items()))
                checkpoint.save(self.out, self.step, self._state())
        if writer:
            writer.close()
        return self.best

    def _epoch(self, epoch: int, checkpoint_seconds: float) -> None:
        length, first = len(self.steps), self.step % len(self.steps)
        saved = time.monotonic()
        bar = tqdm(total=length, initial=first, desc=f"epoch {epoch + 1}/{self.epochs}", unit="batch",
                   leave=False, disable=self.process > 0)  # fmt: skip
        with bar:
            for step in self.steps.epoch(epoch, first):
                loss = self._train_step(step.to(self.device))
                self.loss_sum += loss
                self.step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                unfinished = self.step % length
                if self.process == 0 and unfinished and time.monotonic() - saved >= checkpoint_seconds:
                    checkpoint.save(self.out, self.step, self._state())
                    saved = time.monotonic()

    def _train_step(self, step: Step) -> float:
        recipe = self.recipe
        torch.manual_seed(((recipe.seed * 1_000_003 + self.step) * 1009 + self.process) % 2**63)
        self._set_learning_rates()
        with self.autocast():
            if self.self_critical:
                loss, mean = self._self_critical_loss(step)
            else:
                loss = self.loss(step)
                mean = loss.detach().clone()
        if self.processes > 1:
            dist.all_reduce(mean)
        if not math.isfinite(value := float(mean) / self.processes):
            raise FloatingPointError(f"loss is {value} at step {self.step}: lower learning_rate or clip_norm")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        clip(parameters, recipe.clip_norm, recipe.clip_value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        steps = self.step - (self.first_self_critical if self.self_critical else 0)
        follow(self.average, self._trained(), recipe.average_decay, steps)
        return value

    def _self_critical_loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """The loss of true captions and of samples of the network as it is served, and the samples' BLEU-4."""
        batch = step.captions
        assert batch is not None
        assert self.steps.captions is not None
        if self.references is None:
            self.references = References([[words[1:] for words in captions] for captions in self.steps.captions.words])
        self.network.eval()
        with torch.no_grad():
            pixels = batch.images_B.dim() == 4
            grid_BPC = self.network.encoder(batch.images_B) if pixels else batch.images_B
        samples, weights_BK, mean = sampled_batch(batch, self.network.decoder, grid_BPC, self.references)
        self.network.decoder.train()
        return self.loss(step, samples, weights_BK), torch.tensor(mean, device=self.device)

    def _agree(self) -> None:
        """Batch norm's statistics are those of each process's pictures: all take the first's, as a checkpoint does."""
        if self.processes > 1:
            for tensor in [*self.network.buffers(), *self.average.values()]:
                dist.broadcast(tensor, src=0)

    def _set_learning_rates(self) -> None:
        """Each phase warms up and then falls to 0 as a cosine; the second scales all rates by its own peak."""
        recipe = self.recipe
        step, total, warmup, share = self.step, self.first_self_critical, recipe.warmup_steps, 1.0
        if self.self_critical:
            step, total = step - total, recipe.self_critical_epochs * len(self.steps)
            warmup = recipe.self_critical_warmup_steps
            share = recipe.self_critical_learning_rate / recipe.learning_rate
        share *= min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / total))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _trained(self) -> dict[str, Tensor]:
        frozen = self.recipe.fine_tune is None
        return {k: v for k, v in self.network.state().items() if not (frozen and k.startswith("encoder."))}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with the averaged weights, for as long as the block lasts."""
        if not self.recipe.average_decay:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.network.state().items()}
        self.network.load_state({**own, **self.average})
        yield
        self.network.load_state(own)

    def _state(self) -> dict[str, Any]:
        return {
            "network": self._trained(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "step": self.step, "loss_sum": self.loss_sum, "best": self.best,
            "self_critical": self.self_critical, "settings": self.settings,
        }  # fmt: skip

    def _resume(self) -> None:
        if (state := checkpoint.newest(self.out)) is None:
            return
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise ValueError(f"{self.out} was trained with another {name}: use another --out, or delete it")
        self.self_critical = state["self_critical"]
        self.network.load_state({**self.network.state(), **state["network"]})
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.loss_sum, self.best = state["step"], state["loss_sum"], state["best"]
        log.info("continuing %s at step %d", self.out, self.step)


def parameter_groups(recipe: Recipe, network: Network) -> list[dict[str, Any]]:
    """What trains, by learning rate and weight decay: matrices decay, biases, norms and word vectors' biases do not."""
    groups = []
    parts = [*((head, recipe.learning_rate) for head in network.heads), (network.encoder, recipe.encoder_learning_rate)]
    for part, peak in parts:
        trained = [p for p in part.parameters() if p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in trained if (p.dim() > 1) == matrices]
            if chosen:
                decay = recipe.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return groups


def clip(parameters: list[nn.Parameter], norm: float | None, value: float | None) -> None:
    """Clip gradients in place: elements by absolute value, then all of them together by their L2 norm."""
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    if norm is not None:
        nn.utils.clip_grad_norm_(parameters, norm)
