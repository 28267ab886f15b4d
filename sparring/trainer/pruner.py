"""When and by which weights a run is pruned, and how a resumed run knows of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.attacks.augmix import Threat
from sparring.errors import NonFinite, SparringError
from sparring.randomness import generator
from sparring.runs import Run, write_atomically
from sparring.trainer.learner import Learner
from sparring.trainer.plan import Pruning
from sparring.trainer.pruning import attacked_losses, kept_indices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """kept.json: positions in the training set (`data.holdout` and `data.limit` taken off) that are kept, rising.

    `fingerprint` names that set, `step` the weights that decided; `gradients` and `seconds` are what it cost.
    """

    name: str
    share: float
    epoch: int
    step: int
    fingerprint: str
    gradients: int
    seconds: float
    indices: list[int]


class _Stopped(Exception):
    """The run is to stop before it is decided what is kept."""


class Pruner:
    """Decides once in the history of the weights what is kept, writes it down, and tells the plan."""

    def __init__(self, learner: Learner, run: Run) -> None:
        self.learner, self.run = learner, run
        self.settings, self.pruning = learner.config.pruning, learner.plan.pruning

    @property
    def undecided(self) -> int | None:
        """The epoch that must not begin before it is decided what is kept."""
        return self.pruning.epoch if self.pruning is not None and self.pruning.kept is None else None

    def decide(self, go_on: Callable[[int], bool]) -> Decision | None:
        """Decide by the present weights.

        `go_on` is told the number of examples attacked, before each attack step; where it returns False nothing is
        decided and None returned.

        Raises:
            NonFinite: the loss of an example is no number.
        """
        began, learner, settings = time.monotonic(), self.learner, self.settings
        size, losses, gradients = len(learner.dataset), None, 0
        if settings.name != "random":
            attack = learner.context.attack_now(learner.controls())
            try:
                losses, gradients = self._losses(attack, go_on), size * attack.restarts * attack.steps
            except _Stopped:
                return None
        random = generator(learner.config.train.seed, "kept", settings.epoch)
        return Decision(
            **settings.model_dump(),
            step=learner.step,
            fingerprint=learner.dataset.fingerprint,
            gradients=gradients,
            indices=kept_indices(settings.name, settings.share, losses, size, random).tolist(),
            seconds=time.monotonic() - began,
        )

    def keep(self, decision: Decision) -> None:
        """Write kept.json, which is on disk when this returns, and go by it."""
        assert self.pruning is not None
        write_atomically(self.run.kept, json.dumps(asdict(decision)) + "\n", durable=True)
        self.pruning.kept = torch.tensor(decision.indices)
        log.info("kept %d of %d examples (%s)", len(decision.indices), len(self.learner.dataset), decision.name)

    def _losses(self, attack: Threat, go_on: Callable[[int], bool]) -> Tensor:
        if not isinstance(attack, Attack):
            raise SparringError(
                f"pruning.name = {self.settings.name!r}: attack {attack.name!r} has no losses to go by."
            )
        learner = self.learner

        def look(done: int) -> None:
            if not go_on(done):
                raise _Stopped

        losses = attacked_losses(
            learner.model,
            learner.dataset,
            attack,
            epoch=self.settings.epoch,
            batch_size=learner.config.train.batch_size,
            helper=learner.helper,
            before_step=look,
        )
        if bool(losses.isnan().any()):
            raise NonFinite(f"the loss of {int(losses.isnan().sum())} training examples is no number at pruning.")
        return losses

    def recall(self, step: int) -> Decision | None:
        """The decision that weights of `step` steps continue from; None where they have yet to decide.

        One of later weights is forgotten: they did not survive.

        Raises:
            SparringError: kept.json is damaged, or of other settings or data.
        """
        if self.pruning is None:
            return None
        self.pruning.kept = None
        try:
            found = Decision(**json.loads(self.run.kept.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SparringError(f"{self.run.kept} is damaged ({error}). Put it back, or start a new run.") from error
        if found.step > step:
            self.run.kept.unlink()
            return None
        self._require_ours(found, self.pruning)
        self.pruning.kept = torch.tensor(found.indices)
        return found

    def _require_ours(self, found: Decision, pruning: Pruning) -> None:
        settings, fingerprint = self.settings, self.learner.dataset.fingerprint
        if (found.name, found.share, found.epoch, found.fingerprint) == (
            settings.name,
            settings.share,
            settings.epoch,
            fingerprint,
        ) and len(found.indices) == pruning.size:
            return
        raise SparringError(
            f"{self.run.kept} keeps {len(found.indices)} examples of training set {found.fingerprint}, by pruning.name "
            f"= {found.name!r}, share = {found.share:g}, epoch = {found.epoch}; this run keeps {pruning.size} of "
            f"{fingerprint}, by {settings.name!r}, {settings.share:g}, {settings.epoch}. Put the run's own file back, "
            f"or start a new run."
        )
