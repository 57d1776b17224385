"""The run of a distillation: the student, the teacher's grids, the steps (training.distill says what and why).

The learning rate stays at its peak until the last epochs, where it falls to 0. A finished run given more epochs goes on
from before its fall, so patience may come in pieces.

Shapes: B pictures, H x W pixels, h x w those of the student, C channels.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from captioner.atomic import replace_file, write_text
from captioner.config import at_least, between
from captioner.model.encoder import Encoder, preprocessing_of
from training import checkpoint
from training.average import follow
from training.data import PictureSet
from training.features import BLOCK, PictureCache
from training.speaker import Said, Speaker
from training.teacher import Teacher, last_of_each_grid
from training.unquantize import restore
from training.views import drawn

log = logging.getLogger(__name__)
PHOTOS = 256
"""Enough for the statistics of a network's maps."""


@dataclass(frozen=True)
class Settings:
    """What decides a run, but where things lie, and its length."""

    student: str
    size: int
    """Pixels of the student's pictures, in height and width."""
    teacher: str
    growth: tuple[tuple[int, int], ...] = ((64, 16), (96, 8), (128, 8))
    """Smaller sizes to begin with, and for how many epochs: there are many more in an hour (Tan and Le, 2021,
    "progressive learning")."""
    teacher_size: int = 224
    weights: str = "random"
    """A file of the student's to begin with, a bundle with int8 graphs of it, or "random"."""
    crop: float = 0.3
    """Smallest share of a picture's area that a view shows."""
    mixed: float = 0.5
    """Share of views with another picture shining through."""
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    """Of matrices."""
    warmup_steps: int = 400
    fall: float = 0.25
    """Share of the run, at its end, in which the learning rate falls to 0 on a straight line."""
    average_decay: float = 0.999
    """Of the moving average of the weights that is validated and kept."""
    class_weight: float = 1.0
    """Of the class scores beside the grid."""
    hint_weight: float = 1.0
    """Of each finer grid. In six epochs of depthwise_32 (training/docs) they bring the KL from 2.200 to 2.178."""
    captioner: str = "none"
    """A training run's folder: it captions on the teacher's grid."""
    word_weight: float = 4.0
    """Of the captioner's words: their gradient is then about as long as that of the class scores."""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "growth", tuple((size, epochs) for size, epochs in self.growth))
        for name in ("size", "teacher_size"):
            at_least(name, getattr(self, name), 32)
        at_least("batch", self.batch, 1)
        for name in ("crop", "mixed", "fall"):
            between(name, getattr(self, name), 0, 1)


class Views(NamedTuple):
    """Views of a batch of pictures, and what is to be learnt of them."""

    pixels_BHW3: Tensor
    told: list[Tensor]
    """The teacher's maps that are compared."""
    said: Said | None


class Distillation:
    """A run: the student, its optimizer, its average."""

    def __init__(self, settings: Settings, teacher: Teacher, train: PictureCache, validation: PictureCache, out: Path):
        """The caches hold uint8 pixels of the teacher's size (training.features.pixels_of)."""
        self.settings, self.teacher, self.train, self.out = settings, teacher, train, out
        self.usable = PictureSet(train.pictures, [train]).usable
        self.sample = self.usable[:: max(1, len(self.usable) // PHOTOS)]
        self.before_fall = out / "before-fall"
        self.before_fall.mkdir(parents=True, exist_ok=True)
        self.device = teacher.device
        self.bfloat16 = has_bfloat16(self.device)
        spoken = settings.captioner != "none"
        self.speaker = Speaker(Path(settings.captioner), settings.teacher, self.device) if spoken else None
        torch.manual_seed(settings.seed)
        size = preprocessing_of(settings.teacher, settings.size, settings.size)
        folder = Path(settings.weights)
        student = Encoder(settings.student, size, "random" if folder.is_dir() else settings.weights)
        if folder.is_dir():
            restore(student, folder, scaled(torch.from_numpy(train.rows[self.sample]), settings.size))
        channels = teacher.encoder.channels
        if student.channels != channels:
            raise ValueError(f"{settings.student} has {student.channels} channels, the teacher {channels}")
        self.student = student.to(self.device, memory_format=torch.channels_last)
        self.stages, self.told = self._pairs()
        self.student.fine_tune_from("all")
        self.classifier = teacher.classifier
        whole = self._whole(validation, PictureSet(validation.pictures, [validation]).usable)
        self.validation = [Views(pixels_BHW3, [maps[-1].half()], self._say(maps[-1], 0)) for pixels_BHW3, maps in whole]
        self.channel_weights = self._channel_weights()
        self.adapters = self._adapters()
        parameters = [*self.student.parameters(), *self.adapters.parameters()]
        matrices, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.average = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        self.step = 0

    def _pairs(self) -> tuple[list[int], list[int]]:
        """Stages of the student, and which of the teacher's maps each is compared with: finer grids, then the last."""
        grids, told = last_of_each_grid(self.student.eval(), self.settings.size), list(self.teacher.grids)
        finer = [cell for cell in grids if cell in told[:-1] and cell < max(grids)] if self.settings.hint_weight else []
        return [*(grids[cell] for cell in finer), max(grids.values())], [*(map(told.index, finer)), len(told) - 1]

    def _tell(self, pixels_BHW3: Tensor) -> list[Tensor]:
        """The teacher's maps that are compared."""
        maps = self.teacher(pixels_BHW3)
        return [maps[n] for n in self.told]

    def _whole(self, cache: PictureCache, positions: Sequence[int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Whole pictures and the teacher's maps of them, in blocks."""
        for n in range(0, len(positions), BLOCK):
            pixels_BHW3 = torch.from_numpy(cache.rows[positions[n : n + BLOCK]])
            yield pixels_BHW3, self._tell(pixels_BHW3)

    def _channel_weights(self) -> list[Tensor]:
        """Of each map that is compared: w_c."""
        found = []
        for maps in zip(*(maps for _, maps in self._whole(self.train, self.sample)), strict=True):
            variance_C = torch.cat(maps).transpose(0, 1).flatten(1).var(1)
            found.append(1 / (variance_C + variance_C.mean().clamp(min=1e-6)))
        return found

    def _adapters(self) -> nn.ModuleList:
        """From the student's finer grids to the channels of the teacher's."""
        probe = torch.zeros(1, self.settings.size, self.settings.size, 3, dtype=torch.uint8, device=self.device)
        with torch.inference_mode():
            mine = [map_BChw.shape[1] for map_BChw in self.student.eval().maps(probe, self.stages)]
        theirs = [len(weights_C) for weights_C in self.channel_weights]
        pairs = list(zip(mine, theirs, strict=True))
        return nn.ModuleList(nn.Conv2d(*channels, 1) for channels in pairs[:-1]).to(self.device)

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches only."""
        return max(1, len(self.usable) // self.settings.batch)

    def run(self, epochs: int, checkpoint_seconds: float = 120.0) -> dict[str, float]:
        """Train to the end, continuing what the folder holds; the last epoch's metrics."""
        total = epochs * self.steps_an_epoch
        fall = max(1, round(total * self.settings.fall))
        self._resume(total)
        metrics: dict[str, float] = {}
        while self.step < total:
            epoch, first = divmod(self.step, self.steps_an_epoch)
            started, saved, losses = time.monotonic(), time.monotonic(), []
            bar = tqdm(total=self.steps_an_epoch, initial=first, desc=f"epoch {epoch + 1}/{epochs}", leave=False)
            size = self._size(epoch)
            for views in self._batches(epoch, first):
                if self.step == total - fall:
                    checkpoint.save(self.before_fall, self.step, self._state(0))
                rate = min((self.step + 1) / self.settings.warmup_steps, (total - self.step) / fall, 1.0)
                losses.append(self._train_step(views, size, rate))
                self.step += 1
                bar.update()
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
                if time.monotonic() - saved > checkpoint_seconds:
                    checkpoint.save(self.out, self.step, self._state(total))
                    saved = time.monotonic()
            bar.close()
            metrics = self.validate(size)
            line = {"epoch": epoch + 1, "size": size, "loss": float(np.mean(losses)), **metrics}
            line["seconds"] = round(time.monotonic() - started, 1)
            log.info("%s", " ".join(f"{name}={value:.4g}" for name, value in line.items()))
            checkpoint.add_epoch(self.out, line)
            self._save_average()
            checkpoint.save(self.out, self.step, self._state(total))
        return metrics

    def _batches(self, epoch: int, first: int) -> Iterator[Views]:
        """Views and what is said of them, from (seed, epoch) alone; one batch is made ahead."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(self.usable)
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for n in range(first, self.steps_an_epoch):
                part = order[n * self.settings.batch : (n + 1) * self.settings.batch]
                ready, ahead = ahead, pool.submit(self._views, part, epoch, n)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()

    def _views(self, positions: NDArray[np.int64], epoch: int, n: int) -> Views:
        random = np.random.default_rng([self.settings.seed, epoch, n])
        size, crop, mixed = self.settings.teacher_size, self.settings.crop, self.settings.mixed
        pixels_BHW3 = torch.from_numpy(drawn(self.train.rows[positions], size, random, crop, mixed))
        told = self._tell(pixels_BHW3)
        return Views(pixels_BHW3, told, self._say(told[-1], int(random.integers(2**31))))

    def _say(self, map_BChw: Tensor, seed: int) -> Said | None:
        return self.speaker.say(map_BChw, seed) if self.speaker else None

    def _train_step(self, views: Views, size: int, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        self.student.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            *finer, map_BChw = self.student.maps(scaled(views.pixels_BHW3.to(self.device), size), self.stages)
        map_BChw = map_BChw.float()
        grid_loss, class_loss, _ = self._losses(map_BChw, views.told[-1])
        loss = grid_loss + self.settings.class_weight * class_loss
        hints = zip(self.adapters, finer, views.told, self.channel_weights, strict=False)  # the last is no hint
        for adapter, mine_BChw, hint_BCHW, weights_C in hints:
            loss = loss + self.settings.hint_weight * _distance(
                adapter(mine_BChw.float()), hint_BCHW.to(self.device), weights_C
            )
        if self.speaker and views.said:
            loss = loss + self.settings.word_weight * self.speaker.loss(map_BChw, views.said)
        if not math.isfinite(value := float(loss.detach())):
            raise FloatingPointError(f"loss is {value} at step {self.step}: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 5.0)
        self.optimizer.step()
        follow(self.average, self.student.state_dict(), self.settings.average_decay, self.step)
        return value

    def _size(self, epoch: int) -> int:
        """Of the student's pictures."""
        for size, epochs in self.settings.growth:
            if epoch < epochs:
                return size
            epoch -= epochs
        return self.settings.size

    def _losses(self, map_BChw: Tensor, target_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the grid, of the class scores, and the share of pictures whose first class is the teacher's."""
        target_BCHW = target_BCHW.to(self.device).float()
        grid_loss = _distance(map_BChw, target_BCHW, self.channel_weights[-1])
        if self.classifier is None:
            return grid_loss, grid_loss * 0, grid_loss * 0
        student_BN = self.classifier(map_BChw.mean((2, 3))).log_softmax(1)
        teacher_BN = self.classifier(target_BCHW.mean((2, 3))).log_softmax(1)
        class_loss = functional.kl_div(student_BN, teacher_BN, reduction="batchmean", log_target=True)
        return grid_loss, class_loss, (student_BN.argmax(1) == teacher_BN.argmax(1)).float().mean()

    @torch.inference_mode()
    def validate(self, size: int) -> dict[str, float]:
        """Losses and the agreement on the first class, of the averaged weights on whole pictures."""
        own = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        self.student.load_state_dict(self.average)
        self.student.eval()
        names = ("val_grid", "val_kl", "val_same_class", *(["val_words"] if self.speaker else []))
        sums, count = np.zeros(len(names)), 0
        for pixels_BHW3, (map_BCHW,), said in self.validation:
            map_BChw = self.student.feature_map(scaled(pixels_BHW3.to(self.device), size))
            losses = [*self._losses(map_BChw, map_BCHW)]
            if self.speaker and said:
                losses.append(self.speaker.loss(map_BChw, said))
            sums += len(pixels_BHW3) * np.array([float(x) for x in losses])
            count += len(pixels_BHW3)
        self.student.load_state_dict(own)
        return dict(zip(names, (sums / count).tolist(), strict=True))

    def _save_average(self) -> None:
        from safetensors.torch import save

        state = {name.removeprefix("stages."): value.contiguous() for name, value in self.average.items()}
        replace_file(self.out / "encoder.safetensors", lambda path: path.write_bytes(save(state)))
        write_text(self.out / "settings.json", json.dumps(asdict(self.settings), indent=1) + "\n")

    def _state(self, total: int) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "adapters": self.adapters.state_dict(), "step": self.step, "total": total,
            "settings": asdict(self.settings),
        }  # fmt: skip

    def _resume(self, total: int) -> None:
        state = checkpoint.newest(self.out)
        if state is None:
            return
        if json.dumps(state["settings"]) != json.dumps(asdict(self.settings)):
            raise ValueError(f"{self.out} was trained with other settings: use another --out, or delete it")
        before = checkpoint.newest(self.before_fall)
        if before is not None and state["total"] != total and state["step"] >= before["step"]:
            state = before
        self.student.load_state_dict(state["student"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.adapters.load_state_dict(state["adapters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        log.info("continuing %s at step %d of %d", self.out, self.step, total)


def _distance(map_BChw: Tensor, target_BCHW: Tensor, weights_C: Tensor) -> Tensor:
    """D, on the cells of the first."""
    pooled_BChw = functional.adaptive_avg_pool2d(target_BCHW, map_BChw.shape[2:])
    squares_C = (map_BChw - pooled_BChw).square().mean((0, 2, 3))
    return (squares_C * weights_C).mean()


def scaled(pixels_BHW3: Tensor, size: int) -> Tensor:
    """uint8 [B, H, W, 3] to [B, h, w, 3], as captioner.preprocess.resize does."""
    if pixels_BHW3.shape[1:3] == (size, size):
        return pixels_BHW3
    pixels_B3HW = pixels_BHW3.permute(0, 3, 1, 2)
    return functional.interpolate(pixels_B3HW, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 by itself. A step of residual_32 at 160 pixels, batch 32, takes 105 ms
    in place of 230 then (2 threads of a CPU with avx512_bf16)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
