"""The guard against catastrophic overfitting (Wong et al.).

FGSM training can lose its robustness within a few hundred steps while its loss still falls. A few PGD steps on a
training batch show it; training then returns to the last good weights. Only training examples are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturb, perturbed
from sparring.config import Config
from sparring.errors import Overfitted, SparringError
from sparring.objectives.predictions import correct
from sparring.queue.messages import Shard
from sparring.randomness import generator
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.learner import Learner

PGD_STEPS = 5


class Good(NamedTuple):
    """Networks that have passed the guard (see `Learner.networks`), and what training continues from with them."""

    networks: dict[str, nn.Module]
    checkpoint: Checkpoint

    @property
    def model(self) -> nn.Module:
        return self.networks["model"]


class Check(NamedTuple):
    """Robust accuracy under the present weights, a share in [0, 1], and the gradient evaluations that it took."""

    accuracy: float
    gradients: int


class OverfittingGuard:
    """Compares the present weights with the last good ones, which it keeps: `good`.

    `batch`: the shard that it measures on, of the last step; `overfittings`: falls in the whole run, which are never
    forgotten; `falls`: those from the present good weights.
    """

    def __init__(self, config: Config, learner: Learner) -> None:
        self.config, self.settings, self.learner = config, config.guard, learner
        self.on = self.settings.overfitting != "off"
        self.good: Good | None = None
        self.batch: Shard | None = None
        self.overfittings = self.falls = 0
        self._checked_at = -1

    @property
    def enough(self) -> bool:
        """Training is to end with the good weights."""
        most = 0 if self.settings.overfitting == "stop" else self.settings.max_rollbacks
        return self.falls > most

    def check(self, checkpoint: Callable[[], Checkpoint]) -> Check | None:
        """PGD-5 on `batch`, under the present weights and the good ones.

        Both see the same ε, so that its warm-up is not taken for a fall. The present weights become the good ones
        unless they have lost half of what is allowed: a slow decline adds up. None: nothing to check.

        Raises:
            Overfitted: robust accuracy has fallen by more than `guard.overfitting_fall`.
        """
        learner, allowed = self.learner, self.settings.overfitting_fall
        if not self.on or self.batch is None or self._checked_at == learner.step:
            return None
        self._checked_at = learner.step
        x, y = learner.clean(self.batch)
        attack = self._attack()
        random = (self.config.train.seed, learner.step)
        now = pgd_accuracy(learner.model, x, y, attack, *random)
        if self.good is None:
            self.take(checkpoint())
            return Check(now, PGD_STEPS * len(y))
        before = pgd_accuracy(self.good.model, x, y, attack, *random)
        if before - now > allowed:
            raise Overfitted(
                f"robust accuracy (PGD-{PGD_STEPS}) on {len(y)} training examples is {now:.1%} at step {learner.step}, "
                f"under the last good weights (step {self.good.checkpoint.step}) it is {before:.1%}: catastrophic "
                f"overfitting (guard.overfitting_fall = {allowed:g}).",
                gradients=2 * PGD_STEPS * len(y),
            )
        if before - now <= allowed / 2:
            self.take(checkpoint())
        return Check(now, 2 * PGD_STEPS * len(y))

    def _attack(self) -> Attack:
        """PGD-5 in the ball of the recipe's attack, at the present ε."""
        threat = self.learner.experiment.attack
        if not isinstance(threat, Attack):
            raise SparringError(f"guard.overfitting: attack {threat.name!r} has no ball for PGD. Set it to 'off'.")
        return threat.at(self.learner.epsilon()).evaluator(PGD_STEPS)

    def take(self, checkpoint: Checkpoint) -> None:
        """The present weights are good; `checkpoint` goes with them."""
        self.good = Good(*copy.deepcopy((self.learner.networks, checkpoint)))
        self.falls = 0

    def go_back(self) -> Checkpoint | None:
        """Load the good weights, if there are any; what goes with them."""
        self.batch, self._checked_at = None, -1
        if self.good is None:
            return None
        for name, network in self.learner.networks.items():
            network.load_state_dict(self.good.networks[name].state_dict())
        return copy.deepcopy(self.good.checkpoint)

    def rolled_back(self) -> None:
        """The learner holds the good weights again: PGD replaces the attack for a while, each time twice as long."""
        self.overfittings += 1
        self.falls += 1
        self.learner.pgd_until = self.learner.step + self.settings.overfitting_for * 2 ** (self.overfittings - 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; the good weights are those of a checkpoint after a resume."""
        return {"overfittings": self.overfittings, "pgd_until": self.learner.pgd_until}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, with the recipe's own attack."""
        self.learner.pgd_until = 0 if state is None else state["pgd_until"]
        self.overfittings = max(self.overfittings, 0 if state is None else state["overfittings"])


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, step: int) -> float:
    """Share of a training batch that is classified correctly under attack.

    x: float32 [N, C, H, W] in [0, 1]; y: int64 [N].
    """
    with frozen(model):
        delta = perturb(model, x, y, attack, generator(seed, "guard", step))
        is_correct = correct(model(perturbed(x, delta)), y)
    return float(is_correct.float().mean())
