"""The transfer matrix: accuracy of each model on the adversarial examples of every other model.

Bhat, Tsipras, Mądry 2018, Table 1: if a model is robust to its own examples but not to those of others, its gradients
are masked and its robust accuracy is too high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, Attack, GradientCheck, frozen, perturb, perturbed
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.errors import UsageError
from sparring.evaluation.findings import findings_of, warnings_of
from sparring.evaluation.outcomes import Outcomes, clean_outcomes, joined
from sparring.evaluation.robustness import attack_for, describe, interval
from sparring.evaluation.tickets import InProcess, Judges, Ticket, in_batches, in_order
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
) -> Matrix:
    """Attack every member and evaluate all members on its adversarial examples.

    Args:
        judges: who does it, with the members' models in this order; by default this process.
        as_trained: attack each source with the attack of its training (Bhat et al.), not with that of `settings`.

    Raises:
        UsageError: the members' data or threats differ.
    """
    _require_alike(members)
    attacks = [_attack_of(member, settings, as_trained) for member in members]
    sample = Sample(members[0].test, settings.samples, settings.draw)
    batches = in_batches(len(sample), settings.batch_size)
    works = [(source, attack, places) for source, attack in enumerate(attacks) for places in batches]
    tickets = [
        Ticket(number, places, Crossed(source, attack, seed, places[0]))
        for number, (source, attack, places) in enumerate(works)
    ]
    judges = InProcess([member.model for member in members]) if judges is None else judges
    found = in_order(judges, sample, tickets, None if progress is None else _told(progress))
    of_source = [found[first : first + len(batches)] for first in range(0, len(found), len(batches))]
    rows: list[list[Outcomes]] = [[joined(parts) for parts in zip(*each, strict=True)] for each in of_source]
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
        warnings=[*sample.warnings, *_warnings(members, rows)],
    )


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
    """Work: attack by one of the models, and evaluate all of them on its examples: correct on the clean image and on
    the examples of every restart. The outcomes of each, on the CPU.

    first: place of the batch's first example, which seeds random starts.
    """

    source: int
    attack: Attack
    seed: int
    first: int

    def __call__(
        self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Callable[[str], None] | None
    ) -> list[Outcomes]:
        found, attacker = [_seen(model, x, y) for model in models], models[self.source]
        check, once = GradientCheck(len(y), y.device), replace(self.attack, restarts=1)
        for restart in range(self.attack.restarts):
            with frozen(attacker):
                random = generator(self.seed, "transfer", self.first, restart)
                delta = perturb(attacker, x, y, once, random, check=check)
            attacked = perturbed(x, delta)
            now = [_seen(model, attacked, y) for model in models]
            found = [_after(before, each) for before, each in zip(found, now, strict=True)]
        zero, non_finite = check.zero.cpu(), check.non_finite.cpu()
        return [replace(each, zero_gradient=zero, non_finite_gradient=non_finite) for each in found]


def _after(before: Outcomes, now: Outcomes) -> Outcomes:
    """What is known of the examples once they have been seen attacked too."""
    broken = before.non_finite_logits | now.non_finite_logits
    return replace(before, robust=before.robust & now.clean, non_finite_logits=broken)


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
    first = members[0]
    for other in members[1:]:
        different = [
            ("data.name", first.data, other.data, first.test.fingerprint != other.test.fingerprint),
            ("attack.norm", first.threat.norm, other.threat.norm, first.threat.norm != other.threat.norm),
            (
                "attack.epsilon",
                first.threat.epsilon,
                other.threat.epsilon,
                first.threat.epsilon != other.threat.epsilon,
            ),
        ]
        for name, one, two, differs in different:
            if differs:
                raise UsageError(
                    f"{name} = {one!r} in {first.name} and {two!r} in {other.name}: a transfer matrix needs the same "
                    f"test set and the same ball for all models. Give runs that agree in both."
                )
