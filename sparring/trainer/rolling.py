"""Figures of a rolling evaluation: what is known of the judged version, the best one, and when to end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparring.evaluation.robustness import interval


@dataclass
class RollingVerdict:
    """What is known of one version. pieces: examples of each. answers: by piece, correct clean and robust examples."""

    fence: int
    version: int
    pieces: Sequence[int]
    answers: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, number: int, clean: int, robust: int) -> None:
        """A piece is judged; once more changes nothing."""
        self.answers.setdefault(number, (clean, robust))

    @property
    def open(self) -> list[int]:
        """The pieces that are not judged yet."""
        return [number for number in range(len(self.pieces)) if number not in self.answers]

    @property
    def complete(self) -> bool:
        return not self.open

    @property
    def samples(self) -> int:
        """Examples that are judged."""
        return sum(self.pieces[number] for number in self.answers)

    @property
    def clean(self) -> int:
        """Of these, correct on the clean image."""
        return sum(clean for clean, _ in self.answers.values())

    @property
    def robust(self) -> int:
        """Of these, correct after every attack too."""
        return sum(robust for _, robust in self.answers.values())

    def figures(self) -> dict[str, Any]:
        """Accuracies, shares in [0, 1], with the 95 % interval of the robust one; of an incomplete judgement those of
        the examples that are judged."""
        count = self.samples
        return {
            "clean_accuracy": self.clean / count,
            "robust_accuracy": self.robust / count,
            "robust_interval": interval(self.robust, count),
            "samples": count,
            "of": sum(self.pieces),
            "complete": self.complete,
        }


class RollingMonitor:
    """The best of the complete judgements, and how many in a row were not better.

    patience: after so many training is to end; None: never. identity: of what is judged by what; figures of others are
    not compared.
    """

    def __init__(self, patience: int | None, identity: str) -> None:
        self.patience, self.identity = patience, identity
        self.best, self.best_version, self.since_best = -1.0, 0, 0

    @property
    def enough(self) -> bool:
        """Training is to end."""
        return self.patience is not None and self.since_best >= self.patience

    def conclude(self, judgement: RollingVerdict) -> bool:
        """Whether a complete judgement is the best so far."""
        share = judgement.robust / judgement.samples
        if share <= self.best:
            self.since_best += 1
            return False
        self.best, self.best_version, self.since_best = share, judgement.version, 0
        return True

    def at_least(self, state: dict[str, Any] | None) -> None:
        """Take over the best of a `state()` where it is better."""
        if state is not None and state["identity"] == self.identity and state["best"] > self.best:
            self.restore(state)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "best": self.best,
            "best_version": self.best_version,
            "since_best": self.since_best,
            "identity": self.identity,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, or where other examples or attacks were judged, from the beginning."""
        if state is None or state["identity"] != self.identity:
            state = {"best": -1.0, "best_version": 0, "since_best": 0}
        self.best, self.best_version, self.since_best = state["best"], state["best_version"], state["since_best"]
