"""Robust accuracy by ε and by number of steps, and a verdict on masked gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.evaluation.autoattack import square
from sparring.evaluation.comparisons import masked, unbounded_warning
from sparring.evaluation.findings import findings_of, too_small, warnings_of, worst
from sparring.evaluation.fooled import fooled
from sparring.evaluation.masking import Grid, Masking, masking
from sparring.evaluation.memory import Memory, Results
from sparring.evaluation.outcomes import Outcomes, attacked_outcomes, joined
from sparring.evaluation.panels import Restarts
from sparring.evaluation.robustness import attack_for, describe, interval
from sparring.evaluation.surfaces import Surface, surface_at, whole
from sparring.evaluation.tickets import InProcess, Judges, Work, at_first, each_on_all

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # relative to the trained ε
STEPS = (1, 2, 5, 10, 20, 50, 100)
RULE = (
    "Rule: a stronger attack must not leave a higher accuracy (exact one-sided sign test on the same examples, at 0.01 "
    "divided by the number of pairs), and under an unbounded attack the lower end of the 95 % interval must not exceed "
    "1 %. A gradient that is zero or random must not be met by more than 5 % (lower end of the 95 % interval), and the "
    "gradient must not lose against random directions on most examples (sign test, at 0.01)."
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """Robust accuracy under one attack, a share in [0, 1] with Wilson's 95 % interval; `steps` 0: without gradients."""

    epsilon: float
    steps: int
    attack: str
    robust_accuracy: float
    robust_interval: tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Two curves on the same `samples` test examples, the point of the black-box attack, warnings, and the verdict.

    drawn: which examples these are.
    """

    norm: str
    trained_epsilon: float
    samples: int
    drawn: str
    by_epsilon: list[Point]
    by_steps: list[Point]
    black_box: Point | None
    rule: str
    warnings: list[str]
    masking: Masking

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Under:
    """Work: the outcomes under an attack. first: place of the batch's first example, which seeds random starts."""

    attack: Attack
    seed: int
    first: int

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Outcomes:
        with frozen(models[0]):
            return attacked_outcomes(models[0], x, y, self.attack, self.seed, self.first)[0].cpu()


@dataclass(frozen=True)
class Around:
    """Work: the loss surface around the images."""

    attack: Attack
    seed: int
    first: int

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Surface:
        return surface_at(models[0], x, y, self.attack, self.seed, self.first)


@dataclass(frozen=True)
class BlackBox:
    """Work: who survives Square, bool [n]."""

    attack: Attack
    classes: int
    queries: int
    seed: int
    first: int

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Tensor:
        ball: dict[str, Any] = {"norm": self.attack.norm, "epsilon": self.attack.epsilon, "classes": self.classes}
        how: dict[str, Any] = {"seed": self.seed, "queries": self.queries, "batch_size": len(y), "progress": progress}
        return square(models[0], x, y, **ball, **how).alive.cpu()


def curves(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None = None,
    judges: Judges | None = None,
    results: Results | None = None,
) -> Curves:
    """Attack `settings.samples` examples with a grid of ε (at `settings.steps`) and a grid of steps (at ε).

    The step size is always 2.5·ε/steps; `settings.step_size` is not used, because one size does not fit a whole grid.

    Args:
        judges: who does it, with this model; by default this process. results: known ones are not made again.
    """
    sample = Sample(dataset, settings.samples, settings.draw)
    base = attack_for(threat, settings.model_copy(update={"step_size": None}))
    unbounded = math.sqrt(math.prod(dataset.shape)) if threat.norm == "l2" else 1.0  # the ball holds all of [0, 1]
    radii = [share * base.epsilon for share in EPSILONS if share * base.epsilon < unbounded] + [unbounded]
    by_epsilon = [_with(base, epsilon, base.steps) for epsilon in radii]
    by_steps = [_with(base, base.epsilon, steps) for steps in STEPS]
    attacks = list(dict.fromkeys([*by_epsilon, *by_steps]))
    works: list[Callable[[int], Work]] = [partial(Under, attack, seed) for attack in attacks]
    works += [partial(Around, base, seed)]
    names = [*(_key(attack, seed) for attack in attacks), f"surface {_key(base, seed)}"]
    if settings.square_queries:
        works += [partial(BlackBox, base, dataset.classes, settings.square_queries, seed)]
        names += [f"square {settings.square_queries} {_key(base, seed)}"]
    memory: Memory[Outcomes | Surface | Tensor] = Memory(
        results, sample.indices.tolist(), names, _to_plain, _from_plain
    )
    judges = InProcess([model]) if judges is None else judges
    report = None if progress is None else partial(_tell, progress)
    done = each_on_all(
        judges, sample, [at_first(work) for work in works], settings.batch_size, memory=memory, report=report
    )
    of_attacks, around, black_box = done[: len(attacks)], done[len(attacks)], done[len(attacks) + 1 :]
    found = {attack: joined(parts) for attack, parts in zip(attacks, of_attacks, strict=True)}
    points = {attack: _point(attack, outcome.robust) for attack, outcome in found.items()}
    grid = Grid(
        by_epsilon=[(f"ε = {attack.epsilon:.4g}", found[attack].robust) for attack in by_epsilon],
        by_steps=[(f"PGD-{attack.steps}", found[attack].robust) for attack in by_steps],
        black_box=(f"Square, {settings.square_queries} queries", torch.cat(black_box[0])) if black_box else None,
        strongest=found[by_steps[-1]],
        steps=base.steps,
    )
    strongest = by_steps[-1]
    doubts = fooled(model, sample, strongest, found[strongest].robust.nonzero().flatten(), seed)
    return Curves(
        norm=threat.norm,
        trained_epsilon=base.epsilon,
        samples=len(sample),
        drawn=sample.rule,
        by_epsilon=[points[attack] for attack in by_epsilon],
        by_steps=[points[attack] for attack in by_steps],
        black_box=None if grid.black_box is None else _point_of(base.epsilon, 0, *grid.black_box),
        rule=RULE,
        warnings=[
            *sample.warnings,
            *too_small(base.epsilon),
            *warnings_of(worst(findings_of(outcome) for outcome in found.values())),
            *_warnings(grid, unbounded),
            *doubts,
        ],
        masking=masking(whole(around), grid, fooled=bool(doubts)),
    )


def _key(attack: Attack, seed: int) -> str:
    """All that an attack's outcomes depend on, beside network and examples."""
    return json.dumps({**Restarts(attack, seed).identity, "restarts": attack.restarts}, sort_keys=True)


def _to_plain(found: Outcomes | Surface | Tensor) -> dict[str, Any]:
    if isinstance(found, Tensor):
        return {"alive": found.tolist()}
    return {"outcomes" if isinstance(found, Outcomes) else "surface": found.plain()}


def _from_plain(values: Any) -> Outcomes | Surface | Tensor:
    [(kind, found)] = values.items()
    if kind == "alive":
        return torch.tensor(found, dtype=torch.bool)
    return Outcomes.of_plain(found) if kind == "outcomes" else Surface.of_plain(found)


def _tell(progress: Progress, done: int, total: int) -> None:
    progress(f"{done} of {total} tickets done, each a batch under one of the attacks")


def _warnings(grid: Grid, unbounded: float) -> list[str]:
    return [
        *masked(grid.by_epsilon),
        *masked(grid.by_steps),
        *unbounded_warning(grid.by_epsilon[-1][1], unbounded),
        *([] if grid.black_box is None else masked([grid.black_box, grid.by_steps[-1]])),
    ]


def _with(attack: Attack, epsilon: float, steps: int) -> Attack:
    return replace(attack, epsilon=epsilon, steps=steps, step_size=None)


def _point(attack: Attack, alive: Tensor) -> Point:
    return _point_of(attack.epsilon, attack.steps, describe(attack), alive)


def _point_of(epsilon: float, steps: int, name: str, alive: Tensor) -> Point:
    count, total = int(alive.sum()), len(alive)
    return Point(epsilon, steps, name, count / total, interval(count, total))
