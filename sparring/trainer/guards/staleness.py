"""The staleness guard: are stale shards weaker than fresh ones, and what is done about it.

No bound in steps is safe at every learning rate: what 32 steps of staleness leave unharmed at one rate they ruin at
another. So a shard is attacked anew under the weights that are about to train on it. Where the old perturbations
leave more examples correct than the new ones, remedies are switched on one after the other, the cheapest first:

    older shards count less -> the trainer adds attack steps -> weights are broadcast more often -> fewer shards are
    outstanding, down to the synchronous loop

and switched off again, the dearest first, when the gap stays closed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sparring.config import Config, GuardSettings, depth

HALF_LIFE = 8.0  # steps: a shard of 16 weighs a quarter, as in the measurement that the remedy comes from
RELAX_BELOW = 0.5  # of the threshold

Decision = Literal["tightened", "relaxed"]


@dataclass(frozen=True)
class Remedies:
    """What is done about staleness now. half_life: steps after which a shard's loss counts half (None: never less);
    refresh: the trainer's own attack steps; publish_every: steps between broadcasts; depth: steps' worth of shards
    outstanding, in the simulated engine their staleness."""

    half_life: float | None
    refresh: int | Literal["auto"]
    publish_every: int
    depth: int


def ladder(config: Config) -> tuple[Remedies, ...]:
    """The recipe's own settings, then one remedy more on every rung."""
    settings = config.staleness
    simulated = config.engine == "simulated"
    deep = config.simulated.staleness if simulated else depth(settings)
    rungs = [Remedies(settings.age_half_life, settings.refresh, settings.publish_every, deep)]
    if settings.finish != "off":
        return tuple(rungs)  # its attacks end under the weights that train on them

    def add(rung: Remedies) -> None:
        if rung != rungs[-1]:
            rungs.append(rung)

    if not simulated and config.train.shards_per_step > 1:  # shards that are equally old, or alone, weigh the same
        add(replace(rungs[-1], half_life=min(settings.age_half_life or math.inf, HALF_LIFE)))
    for steps in (1, 2):
        add(replace(rungs[-1], refresh=max(steps, 0 if settings.refresh == "auto" else settings.refresh)))
    while rungs[-1].publish_every > 1 and not simulated:
        add(replace(rungs[-1], publish_every=rungs[-1].publish_every // 2))
    while rungs[-1].depth > 0:
        add(replace(rungs[-1], depth=rungs[-1].depth // 2))
    return tuple(rungs)


class StalenessGuard:
    """Climbs the ladder by a rung where the gap is too wide, and down by one when it has stayed closed for a while."""

    def __init__(self, rungs: Sequence[Remedies], settings: GuardSettings) -> None:
        self.rungs, self.settings = tuple(rungs), settings
        self.level = self._calm = 0

    @property
    def remedies(self) -> Remedies:
        return self.rungs[self.level]

    def weights(self, ages: Sequence[int], sizes: Sequence[int]) -> torch.Tensor | None:
        """How much each example counts; see `age_weights`."""
        return age_weights(ages, sizes, self.remedies.half_life)

    def decide(self, gap: float) -> Decision | None:
        """Act on how much higher accuracy is on stale examples than on fresh ones, as a share in [-1, 1]."""
        threshold = self.settings.staleness_threshold
        self._calm = self._calm + 1 if gap < RELAX_BELOW * threshold else 0
        if gap > threshold and self.level < len(self.rungs) - 1:
            self.level += 1
            return "tightened"
        if self._calm >= self.settings.staleness_patience and self.level > 0:
            self.level, self._calm = self.level - 1, 0
            return "relaxed"
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"level": self.level, "calm": self._calm}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, from the recipe's own settings."""
        self.level, self._calm = (0, 0) if state is None else (state["level"], state["calm"])


def age_weights(ages: Sequence[int], sizes: Sequence[int], half_life: float | None) -> torch.Tensor | None:
    """float32 [N]: 2^(−age / half_life) of each example's shard, over their mean; None where all weigh the same.

    ages: staleness of the shards, steps; sizes: their numbers of examples.
    """
    if half_life is None or len(set(ages)) <= 1:
        return None
    youngest = min(ages)  # so that nothing underflows
    of_shards = torch.tensor([2.0 ** ((youngest - age) / half_life) for age in ages])
    weights = of_shards.repeat_interleave(torch.tensor(sizes))
    return weights / weights.mean()
