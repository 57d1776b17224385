"""What engines tell whoever keeps the metrics."""

from __future__ import annotations

from typing import Literal

Stage = Literal["decode", "encode", "search", "answer"]


class Observer:
    """Does nothing; a subclass counts. Called from several threads: it must be quick, safe there, and not raise."""

    def stage(self, model: str, stage: Stage, seconds: float, images: int) -> None:
        """A stage ran once for that many images (questions, at the stage answer), and succeeded."""

    def queue(self, model: str, seconds: float) -> None:
        """A call was answered; it waited that long for its turns, all stages together."""

    def dropped(self, reason: Literal["deadline", "cancelled"]) -> None:
        """A call was given up before it was answered."""

    def memory(self, model: str, hit: bool) -> None:
        """A picture was looked up; hit: it was remembered, or is already being looked at for another call."""
