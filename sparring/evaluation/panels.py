"""The attacks that judge a network, by name: PGD's restarts, or AutoAttack's ensemble.

Each attacks the examples that are still correct after those before it. A panel is small and can be pickled.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import Attack, frozen
from sparring.evaluation.autoattack import VERSIONS, attacks_for, autoattack, incomplete, remarks
from sparring.evaluation.autoattack import describe as describe_autoattack
from sparring.evaluation.findings import out_of_reach, too_small
from sparring.evaluation.fooled import in_place_of, is_complete
from sparring.evaluation.outcomes import attempted, attempts_of, logits_of
from sparring.evaluation.robustness import describe
from sparring.objectives.predictions import are_finite, correct

Progress = Callable[[str], None]


class Struck(NamedTuple):
    """What one attack made of a batch, on its device.

    correct: bool [n], still correct. images: float32 [n, C, H, W], the attacked ones. loss: float32 [n], cross-entropy
    on them. queries: int64 [n], forward passes of each example. zero_gradient, non_finite_gradient,
    non_finite_logits: bool [n], met on the way. warnings: of the attack itself.
    """

    correct: Tensor
    images: Tensor
    loss: Tensor
    queries: Tensor
    zero_gradient: Tensor
    non_finite_gradient: Tensor
    non_finite_logits: Tensor
    warnings: tuple[str, ...] = ()


class Panel(Protocol):
    """Attacks in order.

    regroups: the next attack's batches are made of all that is still correct, not within a batch (what the authors of
    AutoAttack do). by_loss: its attacks depend on the scale of the logits. of_one_pass: they take the network to be
    the same in every pass, and each image alone to count.
    """

    regroups: bool
    by_loss: bool

    @property
    def of_one_pass(self) -> bool: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attacks; a name says all but what `identity` says."""

    @property
    def description(self) -> str:
        """Stands beside the figure."""

    @property
    def doubtful(self) -> Attack | None:
        """The attack whose survivors are looked at again (`fooled`), if there is one."""

    @property
    def complete(self) -> bool:
        """Whether it has attacked by several losses and without gradients (see `fooled`)."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the verdicts of an attack depend on beside its name, in plain types."""

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        """Warnings about the accuracies, by the attack after which they were left."""

    def strike(
        self, name: str, model: nn.Module, x: Tensor, y: Tensor, first: int, progress: Progress | None
    ) -> Struck:
        """Attack a batch whose images [n, C, H, W] are all classified correctly.

        first: place in the sample of its batch's first example; seeds random starts.
        """


@dataclass(frozen=True)
class Restarts:
    """PGD (or another attack) with its restarts, each from a random start of its own.

    targets: of each restart, so many other classes, the likeliest first; 0: away from the label.
    """

    attack: Attack
    seed: int
    targets: int = 0
    regroups = False
    by_loss = True
    of_one_pass = True
    complete = False

    @property
    def names(self) -> tuple[str, ...]:
        restarts = [f"restart {number + 1}" for number in range(self.attack.restarts)]
        ranks = [f", target {rank + 1}" for rank in range(self.targets)] or [""]
        return tuple(f"{restart}{rank}" for restart in restarts for rank in ranks)

    @property
    def description(self) -> str:
        return describe(self.attack, self.targets)

    @property
    def doubtful(self) -> Attack | None:
        return self.attack

    @property
    def identity(self) -> dict[str, Any]:
        attack = attempts_of(self.attack, self.targets)[0].attack
        values = {each.name: getattr(attack, each.name) for each in fields(attack)}
        loss = {"loss": _named(attack.maximised.value), "targets": attack.maximised.targets}
        return {"attack": _named(type(attack)), "seed": self.seed, **_plain(values), **loss, "alpha": attack.alpha}

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        return [*out_of_reach(self.attack), *too_small(self.attack.epsilon)]

    def strike(
        self, name: str, model: nn.Module, x: Tensor, y: Tensor, first: int, progress: Progress | None
    ) -> Struck:
        attempt = attempts_of(self.attack, self.targets)[self.names.index(name)]
        with frozen(model):
            images, logits, check = attempted(model, x, y, attempt, self.seed, first)
        return Struck(
            correct(logits, y),
            images,
            F.cross_entropy(logits.float(), y, reduction="none"),
            torch.full_like(y, self.attack.steps + 1),
            check.zero,
            check.non_finite,
            ~are_finite(logits),
        )


@dataclass(frozen=True)
class AutoAttackPanel:
    """AutoAttack's ensemble, or those of its attacks that are named."""

    norm: str
    epsilon: float
    classes: int
    seed: int
    version: str = "standard"
    attacks: tuple[str, ...] = ()
    regroups = True
    by_loss = False

    @property
    def names(self) -> tuple[str, ...]:
        return attacks_for(self.classes, self.version, self.attacks)

    @property
    def description(self) -> str:
        return describe_autoattack(self.norm, self.epsilon, self.classes, self.version, self.attacks)

    @property
    def of_one_pass(self) -> bool:
        return self.version != "rand"

    @property
    def doubtful(self) -> Attack | None:
        return in_place_of(self.norm, self.epsilon)

    @property
    def complete(self) -> bool:
        return is_complete(self.names)

    @property
    def identity(self) -> dict[str, Any]:
        ball = {"norm": self.norm, "epsilon": self.epsilon, "classes": self.classes, "seed": self.seed}
        settings = VERSIONS[self.version]._replace(attacks=())._asdict()
        return {"attack": "autoattack", "package": version("pyautoattack"), **ball, **settings}

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        return [
            *too_small(self.epsilon),
            *incomplete(self.classes, self.version, self.attacks),
            *remarks(shares),
        ]

    def strike(
        self, name: str, model: nn.Module, x: Tensor, y: Tensor, first: int, progress: Progress | None
    ) -> Struck:
        found = autoattack(
            model,
            x,
            y,
            norm=self.norm,
            epsilon=self.epsilon,
            classes=self.classes,
            seed=self.seed,
            batch_size=len(y),
            version=self.version,
            attacks=(name,),
            progress=progress,
        )
        with frozen(model):
            logits = logits_of(model, found.images)
        none = torch.zeros_like(found.alive)
        return Struck(
            found.survived,
            found.images,
            F.cross_entropy(logits.float(), y, reduction="none"),
            torch.full_like(y, round(found.queries / len(y))),
            none,
            found.non_finite_gradient,
            found.non_finite_logits,
            tuple(found.warnings),
        )


def _named(of: Any) -> str:
    """The name of a class or function and a digest of its text; both stay the same in another process."""
    try:
        text = inspect.getsource(of)
    except (OSError, TypeError):
        text = ""
    return f"{of.__module__}:{of.__qualname__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, texts and truth values as they are; of others only the type."""
    return {
        name: value if value is None or isinstance(value, int | float | str) else _named(type(value))
        for name, value in values.items()
    }
