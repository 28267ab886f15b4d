"""One verdict on masked gradients, with its evidence.

Two kinds of evidence: the plain cross-entropy gradient at the clean images (`surfaces`), and who survives which attack
(`comparisons`). Sparring's PGD does not lose its direction where the cross-entropy saturates, so the first kind may
point to masking where the second does not: then the gradient fools other attacks, not this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from sparring.evaluation.comparisons import UNBOUNDED_ACCURACY, Survivors, pairs
from sparring.evaluation.outcomes import Outcomes
from sparring.evaluation.robustness import interval
from sparring.evaluation.significance import LEVEL, sign_test
from sparring.evaluation.surfaces import DIRECTIONS, LENGTHS, PASSES, Surface

Verdict = Literal["masked", "no sign of masking"]
SHARE = 0.05  # of the examples: so many may have a useless gradient
ENOUGH_STEPS = 10  # that the unbounded attack must make
OF_CROSS_ENTROPY = ("zero gradients", "loss surface")  # evidence that Sparring's PGD may not mind
NOTES = {
    "none": "No sign is no proof: evaluate by AutoAttack and by transferred examples too.",
    "gradient": (
        "Attacks that use the plain cross-entropy are fooled. No comparison of attacks shows that Sparring's PGD is, "
        "whose loss does not saturate."
    ),
    "attacks": (
        "Robust accuracy by PGD is probably too high: evaluate by AutoAttack and by transferred examples, and report "
        "the lowest."
    ),
}


@dataclass(frozen=True)
class Grid:
    """Survivors of attacks on the same examples, of each list the weakest attack first.

    by_epsilon: with `steps` steps; the last ball holds every image. by_steps: at the trained ε. black_box: None where
    it was left out. strongest: the outcomes of the last of `by_steps`.
    """

    by_epsilon: Sequence[Survivors]
    by_steps: Sequence[Survivors]
    black_box: Survivors | None
    strongest: Outcomes
    steps: int


@dataclass(frozen=True)
class Evidence:
    """One test: `count` of `samples` examples, and whether it points to masking.

    interval: Wilson's 95 % interval of count/samples, where the rule is about a share. p_value: where the rule is a
    sign test, times the number of pairs that were compared (Bonferroni), so that the level is 0.01.
    """

    name: str
    measured: str
    count: int
    samples: int
    points: bool
    interval: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Masking:
    """The verdict is `masked` if any evidence points to it. note: what it means for the figures."""

    verdict: Verdict
    evidence: tuple[Evidence, ...]
    note: str


def masking(surface: Surface, grid: Grid, *, fooled: bool = False) -> Masking:
    """Judge what was measured; nothing is attacked here. fooled: another look has shown that Sparring's PGD is."""
    evidence = (
        *_of_gradients(surface, grid.strongest),
        *([] if grid.black_box is None else [_ordered("black box", [grid.black_box, grid.by_steps[-1]])]),
        _ordered("more steps", grid.by_steps),
        _ordered("larger ε", grid.by_epsilon),
        _unbounded(grid),
    )
    pointing = [each.name for each in evidence if each.points]
    if not pointing:
        return Masking("no sign of masking", evidence, NOTES["none"])
    fooled |= any(name not in OF_CROSS_ENTROPY for name in pointing)
    return Masking("masked", evidence, NOTES["attacks" if fooled else "gradient"])


def _of_gradients(surface: Surface, strongest: Outcomes) -> list[Evidence]:
    is_correct, robust = surface.correct, strongest.robust
    return [
        _share("zero gradients", "the plain cross-entropy has a gradient of exactly zero at", surface.zero[is_correct]),
        _loss_surface(surface),
        _share("random gradients", f"{PASSES} passes do not agree in their gradients at", surface.varies[is_correct]),
        _share("zero steps", "PGD met a gradient of exactly zero at robust", strongest.zero_gradient[robust]),
    ]


def _share(name: str, what: str, flags: Tensor, allowed: float = SHARE) -> Evidence:
    """Points to masking if the lower end of the interval exceeds the share that is allowed."""
    count, samples = int(flags.sum()), len(flags)
    between = _interval(count, samples)
    return Evidence(name, f"{what} {count} of {samples} examples", count, samples, between[0] > allowed, between)


def _unbounded(grid: Grid) -> Evidence:
    """With few steps a sound network may be left some examples: then it points to nothing."""
    name, alive = grid.by_epsilon[-1]
    found = _share("unbounded ball", f"{name}, which holds every image, leaves correct", alive, UNBOUNDED_ACCURACY)
    if grid.steps >= ENOUGH_STEPS:
        return found
    return replace(found, points=False, measured=f"{found.measured}; {grid.steps} steps are too few to tell")


def _loss_surface(surface: Surface) -> Evidence:
    """Points to masking if the gradient loses at all lengths: far away it may lose in a sound network too."""
    rises = surface.rises[surface.correct]
    wins, samples = rises.sum(0).tolist(), len(rises)
    won = max(wins)
    shown = ", ".join(f"{count} at {share:g}·ε" for share, count in zip(LENGTHS, wins, strict=True))
    measured = f"the gradient beats each of {DIRECTIONS} random directions on {shown}, of {samples} examples"
    p_value, between = sign_test(samples - won, won), _interval(won, samples)
    return Evidence("loss surface", measured, won, samples, p_value < LEVEL, between, p_value)


def _ordered(name: str, survivors: Sequence[Survivors]) -> Evidence:
    """Points to masking if a stronger attack leaves significantly more than a weaker one."""
    compared = pairs(survivors)
    worst = min(compared, key=lambda pair: (pair.p_value, pair.left_by_strong - pair.left_by_weak))
    p_value = min(1.0, len(compared) * worst.p_value)
    measured = (
        f"{worst.strong} leaves {worst.left_by_strong} of {worst.samples} examples, {worst.weak} "
        f"{worst.left_by_weak}; {worst.only_strong} survive only the first, {worst.only_weak} only the second"
    )
    return Evidence(name, measured, worst.only_strong, worst.samples, p_value < LEVEL, p_value=p_value)


def _interval(count: int, samples: int) -> tuple[float, float]:
    return interval(count, samples) if samples else (0.0, 1.0)
