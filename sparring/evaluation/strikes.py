"""The work of an evaluation's tickets: look at clean images, attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.evaluation.journal import FLAGS, Verdict
from sparring.evaluation.outcomes import Outcomes, clean_outcomes, variation
from sparring.evaluation.panels import Panel
from sparring.evaluation.tickets import Progress


@dataclass(frozen=True)
class Look:
    """The outcomes without an attack. twice: look also whether a second pass has other logits."""

    twice: bool = False

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Outcomes:
        (model,) = models
        with frozen(model):
            found = clean_outcomes(model, x, y)
            return (replace(found, varies=variation(model, x)) if self.twice else found).cpu()


class Blow(NamedTuple):
    """What `attacks` made of a ticket's examples. images: float32 [n, C, H, W], the attacked ones, if asked for."""

    attacks: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    images: Tensor | None


@dataclass(frozen=True)
class Strike:
    """Attack by the panel's `attacks`, one after the other, what is still correct.

    examples: their indices in the data set. first: place of the first example of their batch.
    """

    panel: Panel
    attacks: tuple[str, ...]
    examples: tuple[int, ...]
    first: int
    keep_images: bool = False

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Blow:
        (model,) = models
        found = [Verdict(index, None, 0.0, 0) for index in self.examples]
        images, alive, warnings = x.clone(), torch.ones_like(y, dtype=torch.bool), dict[str, None]()
        for name in self.attacks:
            where = alive.nonzero().flatten()
            if not len(where):
                break
            struck = self.panel.strike(name, model, x[where], y[where], self.first, progress)
            images[where], alive[where] = struck.images, struck.correct
            warnings |= dict.fromkeys(struck.warnings)
            columns = struck.correct, struck.loss, struck.queries, *(getattr(struck, flag) for flag in FLAGS)
            for place, *values in zip(where.tolist(), *(column.tolist() for column in columns), strict=True):
                found[place] = found[place].and_then(_verdict(found[place].example, name, *values))
        return Blow(self.attacks, tuple(found), tuple(warnings), images.cpu() if self.keep_images else None)


def _verdict(index: int, name: str, correct: bool, loss: float, queries: int, *met: bool) -> Verdict:
    flags = tuple(flag for flag, here in zip(FLAGS, met, strict=True) if here)
    return Verdict(index, None if correct else name, loss, queries, flags)
