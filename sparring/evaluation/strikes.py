"""The work of an evaluation's tickets: look at clean images, attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.evaluation.journal import FLAGS, Entry, Verdict
from sparring.evaluation.outcomes import Outcomes, clean_outcomes, variation
from sparring.evaluation.panels import Panel, Struck
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
    """What each of a ticket's attacks made of the examples. images: float32 [n, C, H, W], attacked, if asked for."""

    entries: tuple[Entry, ...]
    images: Tensor | None


@dataclass(frozen=True)
class Strike:
    """Attack by the panel's `attacks`, one after the other, what is still correct.

    after: attacks that came before. examples: their indices in the data set. first: place of the first example of
    their batch.
    """

    panel: Panel
    attacks: tuple[str, ...]
    after: tuple[str, ...]
    examples: tuple[int, ...]
    first: int
    keep_images: bool = False

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Blow:
        (model,) = models
        images, alive, entries, after = x.clone(), torch.ones_like(y, dtype=torch.bool), list[Entry](), self.after
        for name in self.attacks:
            where = alive.nonzero().flatten()
            if not len(where):
                break
            struck = self.panel.strike(name, model, x[where], y[where], self.first, progress)
            images[where], alive[where] = struck.images, struck.correct
            entries.append(Entry(name, after, self._verdicts(name, where, struck), struck.warnings))
            after = (*after, name)
        return Blow(tuple(entries), images.cpu() if self.keep_images else None)

    def _verdicts(self, name: str, where: Tensor, struck: Struck) -> tuple[Verdict, ...]:
        columns = struck.correct, struck.loss, struck.queries, *(getattr(struck, flag) for flag in FLAGS)
        rows = zip(where.tolist(), *(column.tolist() for column in columns), strict=True)
        return tuple(_verdict(self.examples[place], name, *values) for place, *values in rows)


def _verdict(index: int, name: str, correct: bool, loss: float, queries: int, *met: bool) -> Verdict:
    flags = tuple(flag for flag, here in zip(FLAGS, met, strict=True) if here)
    return Verdict(index, None if correct else name, loss if math.isfinite(loss) else 0.0, queries, flags)
