"""The guard against catastrophic overfitting (Wong et al.).

FGSM training can lose its robustness within a few hundred steps while its loss still falls. A few PGD steps on a
training batch show it; training then returns to the last good weights. Only training examples are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturb, perturbed
from sparring.config import Config
from sparring.errors import Overfitted, SparringError
from sparring.objectives.predictions import correct
from sparring.queue.messages import Key
from sparring.randomness import generator
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.learner import Learner

PGD_STEPS = 5
NAME = "overfitting"  # of the guard's state in a checkpoint


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

    `batch`: the ticket on whose examples it measures, of the last step; `overfittings`: falls in the whole run, which
    are never forgotten; `falls`: those from the present good weights.
    """

    def __init__(self, config: Config, learner: Learner) -> None:
        self.config, self.settings, self.learner = config, config.guard, learner
        self.on = self.settings.overfitting != "off"
        self.good: Good | None = None
        self.batch: Key | None = None
        self.overfittings = self.falls = 0
        self._checked_at = -1
        self._went_back = False  # to the present good weights

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
        x, y = learner.examples(self.batch)
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
        self.good = Good(*copy.deepcopy((self.learner.networks, _without_good(checkpoint))))
        self.falls, self._went_back = 0, False

    def go_back(self) -> Checkpoint | None:
        """Load the good weights, if there are any; what goes with them."""
        self.batch, self._checked_at = None, -1
        if self.good is None:
            return None
        self._went_back = True
        for name, network in self.learner.networks.items():
            network.load_state_dict(self.good.networks[name].state_dict())
        return copy.deepcopy(self.good.checkpoint)

    def rolled_back(self) -> None:
        """The learner holds the good weights again: PGD replaces the attack for a while, each time twice as long."""
        self.overfittings += 1
        self.falls += 1
        self.learner.pgd_until = self.learner.step + self.settings.overfitting_for * 2 ** (self.overfittings - 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; good weights that are the present ones are the checkpoint's own."""
        state = {"overfittings": self.overfittings, "pgd_until": self.learner.pgd_until}
        if not self.on:
            return state
        batch = None if self.batch is None else tuple(self.batch)
        return {**state, "batch": batch, "checked_at": self._checked_at, "falls": self.falls, **self._good_state()}

    def _good_state(self) -> dict[str, Any]:
        good = self.good
        if good is None or (good.checkpoint.step == self.learner.step and not self._went_back):
            return {"good": None, "is_good": good is not None}
        networks = {name: network.state_dict() for name, network in good.networks.items()}
        checkpoint = {each.name: getattr(good.checkpoint, each.name) for each in fields(good.checkpoint)}
        return {"good": {"networks": networks, "checkpoint": checkpoint, "went_back": self._went_back}}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, with the recipe's own attack and no good weights.

        The state that goes with good weights changes nothing about which they are.
        """
        self.learner.pgd_until = 0 if state is None else state["pgd_until"]
        self.overfittings = max(self.overfittings, 0 if state is None else state["overfittings"])
        if state is None:
            state = {"batch": None, "checked_at": -1, "falls": 0, "good": None}
        if "falls" in state:
            self.batch = None if state["batch"] is None else Key(*state["batch"])
            self._checked_at, self.falls, self.good = state["checked_at"], state["falls"], None
            self._went_back = False
            if state["good"] is not None:
                self._restore_good(**state["good"])

    def _restore_good(
        self, networks: dict[str, dict[str, Tensor]], checkpoint: dict[str, Any], went_back: bool
    ) -> None:
        own = copy.deepcopy(self.learner.networks)
        for name, network in own.items():
            network.load_state_dict(networks[name])
        self.good, self._went_back = Good(own, Checkpoint(**checkpoint)), went_back

    def loaded(self, checkpoint: Checkpoint) -> None:
        """Training goes on with the weights of `checkpoint`: they are the good ones where it says so, or is of an older
        version, which did not say."""
        state = checkpoint.owners.get(NAME, {})
        if self.on and state.get("is_good", "good" not in state):
            self.take(checkpoint)


def _without_good(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what the guard kept before: good weights would keep earlier ones, and so on."""
    state = checkpoint.owners.get(NAME, {})
    own: dict[str, Any] = {name: state[name] for name in ("overfittings", "pgd_until") if name in state}
    return replace(checkpoint, owners={**checkpoint.owners, NAME: own})


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, step: int) -> float:
    """Share of a training batch that is classified correctly under attack.

    x: float32 [N, C, H, W] in [0, 1]; y: int64 [N].
    """
    with frozen(model):
        delta = perturb(model, x, y, attack, generator(seed, "guard", step))
        is_correct = correct(model(perturbed(x, delta)), y)
    return float(is_correct.float().mean())
