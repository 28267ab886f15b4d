"""Clean and robust accuracy. An example is robust only if it is correct after every attack attempt."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, Attack, frozen
from sparring.attacks.losses import LOSSES
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample, batch
from sparring.data.sampling import Draw
from sparring.errors import UsageError
from sparring.evaluation.autoattack import attacks_for, autoattack, incomplete
from sparring.evaluation.autoattack import describe as describe_autoattack
from sparring.evaluation.findings import findings_of, out_of_reach, too_small, warnings_of
from sparring.evaluation.fooled import fooled, in_place_of, is_complete
from sparring.evaluation.outcomes import Attacked, Outcomes, clean_outcomes, joined, outcomes, variation
from sparring.machine.devices import device_of
from sparring.models.forward import plain

log = logging.getLogger(__name__)
Progress = Callable[[str], None]


class Verdicts(NamedTuple):
    """Result per example, bool [samples] on the CPU: correct on the clean image; correct after every attempt too."""

    clean: Tensor
    robust: Tensor


@dataclass(frozen=True)
class OfClass:
    """Accuracies on the `samples` examples of one class, shares in [0, 1], with the 95 % interval of the robust one."""

    label: int
    samples: int
    clean_accuracy: float
    robust_accuracy: float
    robust_interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in [0, 1] on `samples` test examples with 95 % intervals, and the attack.

    drawn: which examples these are.
    zero_gradients: robust examples whose attack met a gradient of zero; non_finite_gradients: examples whose gradient
    had entries that are not finite, taken as 0; non_finite_logits: examples that count as wrong for it. `warnings` says
    what this does to the figures, and what to do.
    """

    clean_accuracy: float
    robust_accuracy: float
    samples: int
    attack: str
    seconds: float
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]
    drawn: str = "all"
    zero_gradients: int = 0
    non_finite_gradients: int = 0
    non_finite_logits: int = 0
    by_class: tuple[OfClass, ...] = ()
    warnings: tuple[str, ...] = ()
    verdicts: Verdicts | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; without the verdicts."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "verdicts"}
        return values | {"by_class": [asdict(each) for each in self.by_class], "warnings": list(self.warnings)}

    def without_verdicts(self) -> Evaluation:
        """The same without the results per example."""
        return replace(self, verdicts=None)


def attack_for(threat: Attack, settings: EvaluationSettings) -> Attack:
    """The attack of the evaluation: the ball of `threat`, the evaluation's steps; step size 2.5·ε/steps by default."""
    return threat.evaluator(settings.steps, step_size=settings.step_size, restarts=settings.restarts)


def targets_of(settings: EvaluationSettings, classes: int) -> int:
    """How many other classes PGD is to aim at; 0: none.

    Raises:
        UsageError: more than there are.
    """
    if settings.targets == "none":
        return 0
    if settings.targets == "all":
        return classes - 1
    if settings.targets >= classes:
        raise UsageError(
            f"evaluation.targets = {settings.targets} on data of {classes} classes: there are {classes - 1} others. "
            f"Set it to at most {classes - 1}, or to 'all'."
        )
    return settings.targets


def describe(attack: Attack, targets: int = 0) -> str:
    """Such as `PGD-50, 3 restarts, step 0.01, linf 0.2`; a loss that is not the cross-entropy is named.

    targets: other classes that it aims at.
    """
    name, aim = (attack.name or "pgd").upper(), f" towards {targets} classes" if targets else ""
    ball = "" if attack.radius == attack.epsilon else f" in a ball of {attack.radius:.4g}"
    return (
        f"{name}-{attack.steps}{aim}, {attack.restarts} restart{'s' if attack.restarts > 1 else ''}, "
        f"step {attack.alpha:.4g}, {attack.norm} {attack.epsilon:.4g}{ball}{_loss_of(attack)}"
    )


def _loss_of(attack: Attack) -> str:
    """Such as `, loss kl`; empty of the cross-entropy."""
    loss = attack.maximised
    if loss is CROSS_ENTROPY:
        return ""
    known = [name for name, each in LOSSES.items() if each is loss]
    name = known[0] if known else getattr(loss.value, "__name__", type(loss.value).__name__)
    return f", loss {name}" if name.isidentifier() else ", loss of its own"


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    samples: int | None = None,
    draw: Draw = "stratified",
    batch_size: int = 500,
    seed: int = 0,
    targets: int = 0,
    progress: Callable[[int, int], None] | None = None,
    attacked: Attacked | None = None,
) -> Evaluation:
    """Evaluate the model in eval mode and float32 by an attack with restarts.

    Args:
        targets: other classes that each restart aims at, one after the other; 0: away from the label.
        samples, draw: the examples; see `Sample`.
        progress: called with (examples done, all examples). attacked: called with the images, see `outcomes`.
    """
    began, sample = time.perf_counter(), Sample(dataset, samples, draw)
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "targets": targets, "progress": progress}
    found = outcomes(model, sample, attack, attacked=attacked, **how)
    doubts = fooled(model, sample, attack, found.robust.nonzero().flatten(), seed)
    doubts = [*out_of_reach(attack), *too_small(attack.epsilon), *doubts]
    return evaluation_of(found, sample, describe(attack, targets), time.perf_counter() - began, doubts)


def evaluate_by_autoattack(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    *,
    samples: int | None = None,
    draw: Draw = "stratified",
    batch_size: int = 500,
    seed: int = 0,
    version: str = "standard",
    attacks: Sequence[str] = (),
    progress: Progress | None = None,
    attacked: Attacked | None = None,
) -> Evaluation:
    """Evaluate the model by AutoAttack within the ball of `threat`; see `autoattack` and `outcomes`."""
    began, model, sample = time.perf_counter(), plain(model), Sample(dataset, samples, draw)
    x, y = batch(sample, torch.arange(len(sample)), augment="none", seed=seed, epoch=0)
    if progress is not None:
        progress(f"AutoAttack on {len(sample)} test examples")
    found = autoattack(
        model,
        x,
        y,
        norm=threat.norm,
        epsilon=threat.epsilon,
        classes=dataset.classes,
        seed=seed,
        batch_size=batch_size,
        version=version,
        attacks=attacks,
        progress=progress,
    )
    if attacked is not None:
        attacked(x, y, found.images)
    after = replace(
        _clean_outcomes(model, x, y, batch_size, twice=version != "rand"),
        confidence=torch.ones(len(y)),  # its other losses do not depend on the scale of the logits
        robust=found.alive.cpu(),
        non_finite_gradient=found.non_finite_gradient.cpu(),
        non_finite_logits=found.non_finite_logits.cpu(),
    )
    attack = describe_autoattack(threat.norm, threat.epsilon, dataset.classes, version, attacks)
    warnings = [*too_small(threat.epsilon), *incomplete(dataset.classes, version, attacks), *found.warnings]
    survivors, doubtful = after.robust.nonzero().flatten(), in_place_of(threat.norm, threat.epsilon)
    complete = is_complete(attacks_for(dataset.classes, version, attacks))
    warnings += fooled(model, sample, doubtful, survivors, seed, at_random=version == "rand", complete=complete)
    return evaluation_of(after, sample, attack, time.perf_counter() - began, warnings)


def _clean_outcomes(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, twice: bool) -> Outcomes:
    """The outcomes of the clean images, on the CPU. twice: look also whether a second pass has other logits."""
    device = device_of(model)
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    with frozen(model):
        found = [clean_outcomes(model, some.to(device), labels.to(device)).cpu() for some, labels in parts]
        if twice:
            found[0] = replace(found[0], varies=variation(model, x[:batch_size].to(device)).cpu())
    return joined(found)


def evaluate_by(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None = None,
    attacked: Attacked | None = None,
) -> Evaluation:
    """Evaluate as the settings say: by PGD with restarts or by AutoAttack, within the ball of the trained threat."""
    how: dict[str, Any] = {
        "samples": settings.samples,
        "draw": settings.draw,
        "batch_size": settings.batch_size,
        "seed": seed,
    }
    if settings.attack == "autoattack":
        how |= {"version": settings.version, "attacks": settings.attacks}
        return evaluate_by_autoattack(model, dataset, threat, progress=progress, attacked=attacked, **how)
    pgd = attack_for(threat, settings)
    how["targets"] = targets_of(settings, dataset.classes)
    return evaluate(model, dataset, pgd, progress=counted(progress), attacked=attacked, **how)


def counted(
    progress: Callable[[str], None] | None, what: str = "", done_to_them: str = "attacked"
) -> Callable[[int, int], None] | None:
    """A progress callback in examples that calls `progress` with a sentence; `what` begins it."""
    if progress is None:
        return None
    return lambda done, total: progress(f"{what}{done} of {total} test examples {done_to_them}")


def interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), as two shares in [0, 1]."""
    share, z = successes / total, 1.959964
    centre = share + z * z / (2 * total)
    half_width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def evaluation_of(
    outcomes: Outcomes, sample: Sample, attack: str, seconds: float, warnings: Sequence[str] = ()
) -> Evaluation:
    """The figures of the outcomes.

    Args:
        sample: what was attacked. attack: its description. warnings: those of the attack itself.
    """
    found = findings_of(outcomes)
    total, clean = found.samples, int(outcomes.clean.sum())
    reported = (*sample.warnings, *warnings_of(found), *warnings)
    for warning in reported:
        log.warning("%s: %s", attack, warning)
    return Evaluation(
        clean_accuracy=clean / total,
        robust_accuracy=found.robust / total,
        samples=total,
        attack=attack,
        seconds=seconds,
        clean_interval=interval(clean, total),
        robust_interval=interval(found.robust, total),
        drawn=sample.rule,
        zero_gradients=found.zero_gradients,
        non_finite_gradients=found.non_finite_gradients,
        non_finite_logits=found.non_finite_logits,
        by_class=by_class(outcomes),
        warnings=reported,
        verdicts=Verdicts(outcomes.clean, outcomes.robust),
    )


def by_class(outcomes: Outcomes) -> tuple[OfClass, ...]:
    """The accuracies of each class that there are examples of."""
    totals, clean, robust = (
        torch.bincount(outcomes.labels[rows]).tolist()
        for rows in (torch.ones_like(outcomes.clean), outcomes.clean, outcomes.robust)
    )
    clean, robust = (counts + [0] * (len(totals) - len(counts)) for counts in (clean, robust))
    return tuple(
        OfClass(label, total, clean[label] / total, robust[label] / total, interval(robust[label], total))
        for label, total in enumerate(totals)
        if total
    )
