"""The overfitting guard: FGSM training can lose its robustness within a few hundred steps while its loss goes on
falling (catastrophic overfitting, Wong et al.). A few PGD steps on a training batch show it; then training goes back to
the last good weights. Nothing but training examples is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturb, perturbed
from sparring.config import Config
from sparring.errors import Overfitted, SparringError
from sparring.queue.messages import Shard
from sparring.randomness import generator
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.learner import Learner

PGD_STEPS = 5


class Good(NamedTuple):
    """Weights that have passed the guard (and their average), and what training goes on from with them."""

    model: nn.Module
    average: nn.Module | None
    checkpoint: Checkpoint


class Check(NamedTuple):
    """Robust accuracy under the present weights, a share in [0, 1], and the gradient evaluations that it took."""

    accuracy: float
    gradients: int


class OverfittingGuard:
    """Compares the present weights with the last good ones, which it keeps: `good`. `falls`: from these."""

    def __init__(self, config: Config, learner: Learner) -> None:
        self.config, self.settings, self.learner = config, config.guard, learner
        self.on = self.settings.overfitting != "off"
        self.good: Good | None = None
        self.falls = 0
        self._checked_at = -1

    @property
    def enough(self) -> bool:
        """Training is to end with the good weights."""
        most = 0 if self.settings.overfitting == "stop" else self.settings.max_rollbacks
        return self.falls > most

    def check(self, batch: Shard | None, checkpoint: Callable[[], Checkpoint]) -> Check | None:
        """PGD-5 on the batch of the last step, under the present weights and the good ones.

        Both see the same ε, so that its warm-up is not taken for a fall. The present weights become the good ones
        unless they have lost half of what is allowed: a slow decline adds up. None: nothing to check.

        Raises:
            Overfitted: robust accuracy has fallen by more than `guard.overfitting_fall`.
        """
        learner, allowed = self.learner, self.settings.overfitting_fall
        if not self.on or batch is None or self._checked_at == learner.step:
            return None
        self._checked_at = learner.step
        x, y = learner.clean(batch)
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
        self.good = Good(*copy.deepcopy((self.learner.model, self.learner.average, checkpoint)))
        self.falls = 0

    def go_back(self) -> Checkpoint | None:
        """Load the good weights, if there are any; what goes with them."""
        self._checked_at = -1
        if self.good is None:
            return None
        self.learner.model.load_state_dict(self.good.model.state_dict())
        if self.learner.average is not None and self.good.average is not None:
            self.learner.average.load_state_dict(self.good.average.state_dict())
        return copy.deepcopy(self.good.checkpoint)


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, step: int) -> float:
    """Share of a training batch that is classified correctly under attack.

    x: float32 [N, C, H, W] in [0, 1]; y: int64 [N].
    """
    with frozen(model):
        delta = perturb(model, x, y, attack, generator(seed, "guard", step))
        correct: Tensor = model(perturbed(x, delta)).argmax(1) == y
    return float(correct.float().mean())
