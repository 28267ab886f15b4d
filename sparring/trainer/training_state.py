"""Everything that decides what is trained next, saved and restored as one."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sparring.models import build
from sparring.models.forward import plain
from sparring.objectives import Helper
from sparring.observe.state import RunState
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint, Owner
from sparring.trainer.learner import Learner
from sparring.trainer.recorder import Recorder
from sparring.trainer.steps import Consumed

log = logging.getLogger(__name__)


class TrainingState:
    """The learner with its networks, the `owners` of all other state by name, and what has been observed so far.

    `ledger` gives what a checkpoint keeps of the open epochs. `planned`: see `Checkpoint`.
    """

    def __init__(self, learner: Learner, run: Run, recorder: Recorder, owners: dict[str, Owner]) -> None:
        self.learner, self.run, self.recorder, self.owners = learner, run, recorder, owners
        self.ledger: Callable[[], dict[str, Any]] = Consumed().state
        self.planned: int | None = None
        helper = learner.networks.get("helper")
        self._initial_helper = None if helper is None else copy.deepcopy(helper.state_dict())

    def register(self, name: str, owner: Owner, resumed: Checkpoint | None) -> None:
        """Add an owner, which continues from its state in `resumed`."""
        self.owners[name] = owner
        owner.restore(None if resumed is None else resumed.owners.get(name))

    def checkpoint(self) -> Checkpoint:
        """The present state, beside the weights of the networks."""
        learner, counters = self.learner, self.recorder.state.as_dict()
        return Checkpoint(learner.step, learner.state(), self.ledger(), counters, self._owner_states(), self.planned)

    def save(self, best: bool = False, *, planned: bool = True) -> None:
        """Write a checkpoint of the present state; planned: an undisturbed run does it too."""
        if planned:
            self.planned = self.learner.step
        self._write(self.checkpoint(), best)

    def save_again(self, checkpoint: Checkpoint) -> None:
        """Write the restored `checkpoint` again, with what has changed since; newer checkpoints are deleted."""
        checkpoints.forget_newer(self.run.checkpoints, checkpoint.step)
        self.planned = checkpoint.step
        counters = self.recorder.state.as_dict()
        self._write(replace(checkpoint, counters=counters, owners=self._owner_states(), planned=self.planned))

    def load_newest(self) -> Checkpoint | None:
        """Continue from the newest checkpoint of the run's folder; None where there is none."""
        recovered = checkpoints.recover(self.run.checkpoints)
        if recovered is not None:
            log.warning("recovered %s, which a killed process had written", recovered.name)
        path = checkpoints.latest(self.run.checkpoints)
        if path is None:
            return None
        checkpoint = self._load(path)
        if damaged := checkpoints.set_damaged_aside(self.run.checkpoints, path):
            self.recorder.state.message = f"continued from {path.name}: {', '.join(damaged)} is damaged"
        return checkpoint

    def load_planned(self) -> Checkpoint | None:
        """Continue from the last planned checkpoint, for a rollback; None: there was none, what was written goes.

        One of a stop would make what follows depend on when that was. Where the planned one is damaged the newest that
        is not is used.
        """
        if self.planned is None:
            checkpoints.forget_newer(self.run.checkpoints, 0)
            return None
        path = checkpoints.at_step(self.run.checkpoints, self.planned)
        if path.is_dir() and not checkpoints.damage(path):
            return self._load(path)
        log.warning("%s is missing or damaged; the newest one that is not is used", path)
        return self.load_newest()

    def _load(self, path: Path) -> Checkpoint:
        checkpoint = checkpoints.load_state(path)
        checkpoints.load_networks(path, self.learner.networks)
        self.continue_from(checkpoint)
        self.recorder.state.checkpointed = path.stat().st_mtime
        log.info("continued from %s", path.name)
        return checkpoint

    def continue_from(self, checkpoint: Checkpoint) -> None:
        """Restore everything but the weights of the networks, which are loaded already."""
        self.planned = checkpoint.planned
        self.learner.restore(checkpoint.step, **checkpoint.learner)
        self.recorder.continue_from(RunState.from_dict(checkpoint.counters))
        self._restore_owners(checkpoint.owners)

    def begin(self) -> None:
        """Begin the run with the learner as it is."""
        self.planned = None
        self._restore_owners({})

    def restart(self) -> None:
        """Begin again with the weights that the run started from."""
        if self._initial_helper is not None:
            self.learner.networks["helper"].load_state_dict(self._initial_helper)
        self.learner.restart(self._initial_model())
        self.recorder.restart()
        self.begin()

    def _initial_model(self) -> nn.Module:
        if _has_initial(self.run):
            return load_initial(self.run, copy.deepcopy(plain(self.learner.model)))
        data, config = self.learner.dataset, self.learner.config
        return build(config.model, data.shape, data.classes, config.train.seed, normalize=config.data.normalize)

    def _owner_states(self) -> dict[str, dict[str, Any]]:
        return {name: owner.state() for name, owner in self.owners.items()}

    def _restore_owners(self, states: dict[str, dict[str, Any]]) -> None:
        for name, owner in self.owners.items():
            owner.restore(states.get(name))

    def _write(self, checkpoint: Checkpoint, best: bool = False) -> None:
        """With the present weights."""
        keep = self.learner.config.checkpoint.keep
        checkpoints.save(self.run.checkpoints, self.learner.networks, checkpoint, keep, best)
        self.recorder.state.checkpointed = time.time()


def load_initial(run: Run, model: nn.Module) -> nn.Module:
    """`model` with the weights that the run started from, where they were not fresh.

    Raises:
        SparringError: they have changed since, cannot be read, or are those of another network.
    """
    if _has_initial(run):
        checkpoints.require_initial(run.initial)
        checkpoints.load_weights(run.initial, model)
    return model


def keep_frozen(run: Run, helper: Helper | None) -> None:
    """A frozen helper network keeps the weights of the run's start: written then, loaded whenever the run goes on.

    Raises:
        SparringError: they have changed since, cannot be read, or are those of another network.
    """
    if helper is None or helper.trained:
        return
    if (run.initial / checkpoints.HELPER).is_file():
        checkpoints.require_initial(run.initial)
        checkpoints.load_weights(run.initial, helper.network, checkpoints.HELPER)
    else:
        checkpoints.save_initial(run.initial, helper.network, checkpoints.HELPER)


def _has_initial(run: Run) -> bool:
    return (run.initial / checkpoints.MODEL).is_file()
