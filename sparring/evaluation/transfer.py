"""The transfer matrix: accuracy of each model on the adversarial examples of every other model.

Bhat, Tsipras, Mądry 2018, Table 1: if a model is robust to its own examples but not to those of others, its gradients
are masked and its robust accuracy is too high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, Attack, GradientCheck, frozen, perturb, perturbed
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.errors import UsageError
from sparring.evaluation.findings import findings_of, warnings_of
from sparring.evaluation.findings import worst as worst_findings
from sparring.evaluation.fooled import fooled
from sparring.evaluation.memory import Memory, Results
from sparring.evaluation.outcomes import Outcomes, clean_outcomes, joined, variation
from sparring.evaluation.robustness import attack_for, describe, interval
from sparring.evaluation.tickets import InProcess, Judges, Work, at_first, each_on_all
from sparring.randomness import generator

Pair = tuple[float, float]


@dataclass(frozen=True)
class Member:
    """A model of the matrix, the attack that it was trained with, its data and checkpoint."""

    name: str
    model: nn.Module
    test: Dataset
    threat: Attack
    data: str
    checkpoint: str


@dataclass(frozen=True)
class Matrix:
    """`accuracy[source][target]`: share of `samples` test examples that the target classifies correctly, both clean and
    attacked through the source. drawn: which examples these are.

    The diagonal is white-box accuracy. Intervals are Wilson's at 95 %.
    """

    names: list[str]
    checkpoints: list[str]
    attacks: list[str]
    samples: int
    drawn: str
    clean: list[float]
    clean_interval: list[Pair]
    accuracy: list[list[float]]
    interval: list[list[Pair]]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def transfer(
    members: Sequence[Member],
    settings: EvaluationSettings,
    seed: int,
    as_trained: bool = False,
    progress: Callable[[str], None] | None = None,
    judges: Judges | None = None,
    results: Results | None = None,
) -> Matrix:
    """Attack every member and evaluate all members on its adversarial examples.

    Args:
        judges: who does it, with the members' models in this order; by default this process.
        results: known ones are not made again; those that are made are kept.
        as_trained: attack each source with the attack of its training (Bhat et al.), not with that of `settings`.

    Raises:
        UsageError: the members' data or threats differ.
    """
    _require_alike(members)
    attacks = [_attack_of(member, settings, as_trained) for member in members]
    sample = Sample(members[0].test, settings.samples, settings.draw)
    names = [f"source {number}" for number in range(len(members))]
    everybody = tuple(range(len(members)))
    works = [partial(Crossed, source, attack, seed, everybody) for source, attack in enumerate(attacks)]
    rows = _crossed(members, works, names, sample, settings.batch_size, progress, judges, results)
    own = [row[number] for number, row in enumerate(rows)]
    found = zip(members, attacks, own, strict=True)
    doubts = [doubt for member, attack, each in found for doubt in _of_itself(member, sample, attack, each, seed)]
    clean = [int(outcomes.clean.sum()) for outcomes in rows[0]]
    counts = [[int(outcomes.robust.sum()) for outcomes in row] for row in rows]
    return Matrix(
        names=[member.name for member in members],
        checkpoints=[member.checkpoint for member in members],
        attacks=[_described(attack) for attack in attacks],
        samples=len(sample),
        drawn=sample.rule,
        clean=[count / len(sample) for count in clean],
        clean_interval=[interval(count, len(sample)) for count in clean],
        accuracy=[[count / len(sample) for count in row] for row in counts],
        interval=[[interval(count, len(sample)) for count in row] for row in counts],
        warnings=[
            *sample.warnings,
            *_warnings(members, rows),
            *doubts,
        ],
    )


@dataclass(frozen=True)
class FromSources:
    """Accuracy of one model on the adversarial examples of others, shares of `samples` test examples with Wilson's 95 %
    intervals. itself: on its own, white box. worst: correct on the examples of every source (not on its own)."""

    name: str
    checkpoint: str
    attack: str
    samples: int
    drawn: str
    clean: float
    clean_interval: Pair
    itself: float
    itself_interval: Pair
    sources: list[str]
    checkpoints: list[str]
    accuracy: list[float]
    interval: list[Pair]
    worst: float
    worst_interval: Pair
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_sources(
    members: Sequence[Member],
    keys: Sequence[str],
    settings: EvaluationSettings,
    seed: int,
    progress: Callable[[str], None] | None = None,
    judges: Judges | None = None,
    results: Results | None = None,
) -> FromSources:
    """Attack each member within the ball of the first, and evaluate the first on these examples.

    Args:
        keys: of each member, what tells its network and weights from others; results are known by it.
        judges, results: as in `transfer`.

    Raises:
        UsageError: the members' data differ.
    """
    target = members[0]
    require_same_data(members)
    attack, sample = attack_for(target.threat, settings), Sample(target.test, settings.samples, settings.draw)
    works = [partial(Crossed, source, attack, seed, (0,)) for source in range(len(members))]
    rows = _crossed(members, works, keys, sample, settings.batch_size, progress, judges, results)
    found, total = [row[0] for row in rows], len(sample)
    robust = [each.robust for each in found]
    worst = int(torch.stack(robust[1:]).all(0).sum())
    counts, clean = [int(each.sum()) for each in robust], int(found[0].clean.sum())
    findings = worst_findings(findings_of(each) for each in found)
    return FromSources(
        name=target.name,
        checkpoint=target.checkpoint,
        attack=_described(attack),
        samples=total,
        drawn=sample.rule,
        clean=clean / total,
        clean_interval=interval(clean, total),
        itself=counts[0] / total,
        itself_interval=interval(counts[0], total),
        sources=[member.name for member in members[1:]],
        checkpoints=[member.checkpoint for member in members[1:]],
        accuracy=[count / total for count in counts[1:]],
        interval=[interval(count, total) for count in counts[1:]],
        worst=worst / total,
        worst_interval=interval(worst, total),
        warnings=[*sample.warnings, *warnings_of(findings), *_of_itself(target, sample, attack, found[0], seed)],
    )


def _of_itself(member: Member, sample: Sample, attack: Attack, outcomes: Outcomes, seed: int) -> list[str]:
    """What makes a member's accuracy on its own examples doubtful, and these examples weak ones for others."""
    doubts = fooled(member.model, sample, attack, outcomes.robust.nonzero().flatten(), seed)
    return [f"{member.name} on its own examples: {doubt}" for doubt in doubts]


def _crossed(
    members: Sequence[Member],
    works: Sequence[Callable[[int], Work]],
    names: Sequence[str],
    sample: Sample,
    size: int,
    progress: Callable[[str], None] | None,
    judges: Judges | None,
    results: Results | None,
) -> list[list[Outcomes]]:
    """Of each work the outcomes of its targets, on the whole sample."""
    memory: Memory[list[Outcomes]] = Memory(results, sample.indices.tolist(), names, _to_plain, _from_plain)
    found = each_on_all(
        InProcess([member.model for member in members]) if judges is None else judges,
        sample,
        [at_first(work) for work in works],
        size,
        memory=memory,
        report=None if progress is None else _told(progress),
    )
    return [[joined(parts) for parts in zip(*batches, strict=True)] for batches in found]


def _to_plain(found: list[Outcomes]) -> list[Any]:
    return [each.plain() for each in found]


def _from_plain(values: Any) -> list[Outcomes]:
    return [Outcomes.of_plain(each) for each in values]


def _told(progress: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: progress(f"{done} of {total} tickets done, each a batch attacked by one of the models")


def _described(attack: Attack) -> str:
    """The attack, with its start if that is not uniform."""
    return describe(attack) + ("" if attack.start == "uniform" else f", {attack.start} start")


def _attack_of(member: Member, settings: EvaluationSettings, as_trained: bool) -> Attack:
    """The loss is always cross-entropy, because TRADES' divergence does not attack the label."""
    if not as_trained:
        return attack_for(member.threat, settings)
    return replace(member.threat, loss=CROSS_ENTROPY)


@dataclass(frozen=True)
class Crossed:
    """Work: attack by one of the models, and evaluate the `targets` among them on its examples: correct on the clean
    image and on the examples of every restart. The outcomes of each, on the CPU.

    first: place of the batch's first example, which seeds random starts.
    """

    source: int
    attack: Attack
    seed: int
    targets: tuple[int, ...]
    first: int

    def __call__(
        self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Callable[[str], None] | None
    ) -> list[Outcomes]:
        targets, attacker = [models[target] for target in self.targets], models[self.source]
        found = [_seen(model, x, y) for model in targets]
        check, once = GradientCheck(len(y), y.device), replace(self.attack, restarts=1)
        for restart in range(self.attack.restarts):
            with frozen(attacker):
                random = generator(self.seed, "transfer", self.first, restart)
                delta = perturb(attacker, x, y, once, random, check=check)
            attacked = perturbed(x, delta)
            now = [_seen(model, attacked, y) for model in targets]
            found = [_after(before, each) for before, each in zip(found, now, strict=True)]
        zero, non_finite = check.zero.cpu(), check.non_finite.cpu()
        found = [replace(each, zero_gradient=zero, non_finite_gradient=non_finite) for each in found]
        if self.first > 0:
            return found
        return [replace(each, varies=_varies(model, x)) for each, model in zip(found, targets, strict=True)]


def _after(before: Outcomes, now: Outcomes) -> Outcomes:
    """What is known of the examples once they have been seen attacked too."""
    broken = before.non_finite_logits | now.non_finite_logits
    return replace(before, robust=before.robust & now.clean, non_finite_logits=broken)


def _varies(model: nn.Module, x: Tensor) -> Tensor:
    with frozen(model):
        return variation(model, x).cpu()


def _seen(model: nn.Module, x: Tensor, y: Tensor) -> Outcomes:
    """The outcomes of these images, on the CPU."""
    with frozen(model):
        return clean_outcomes(model, x, y).cpu()


def _warnings(members: Sequence[Member], rows: Sequence[Sequence[Outcomes]]) -> list[str]:
    """What was found of each member: as a source on its own examples, and as a target of all."""
    found = []
    for number, member in enumerate(members):
        findings = findings_of(rows[number][number])
        logits = max(findings_of(row[number]).non_finite_logits for row in rows)
        found += [f"{member.name}: {text}" for text in warnings_of(findings._replace(non_finite_logits=logits))]
    return found


def _require_alike(members: Sequence[Member]) -> None:
    require_same_data(members)
    first = members[0].threat
    for other in members[1:]:
        for name in ("norm", "epsilon"):
            one, two = getattr(first, name), getattr(other.threat, name)
            if one != two:
                raise _differ(f"attack.{name}", one, two, members[0], other, "the same ball")


def require_same_data(members: Sequence[Member]) -> None:
    """Refuse members with other test sets than the first one's.

    Raises:
        UsageError: the first that has another.
    """
    first = members[0]
    for other in members[1:]:
        if first.test.fingerprint != other.test.fingerprint:
            raise _differ("data.name", first.data, other.data, first, other, "the same test set")


def _differ(name: str, one: object, two: object, first: Member, other: Member, same: str) -> UsageError:
    return UsageError(
        f"{name} = {one!r} in {first.name} and {two!r} in {other.name}: transfer needs {same} for all models. Give "
        f"runs that agree in it."
    )
