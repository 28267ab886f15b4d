"""Which weights attack a ticket with a fresh finish, and copies of those that are still needed."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparring.config import last_steps
from sparring.queue.codec import received
from sparring.queue.messages import Controls, Finish, Key, Shard
from sparring.trainer.history import History, Past, networks_of
from sparring.trainer.learner import Learner
from sparring.workers.finish import Finisher, finish_all
from sparring.workers.task import Task


class Heads:
    """The weights of the last `lead` steps and the present ones; `on`: the recipe has a fresh finish."""

    def __init__(self, learner: Learner) -> None:
        settings = learner.config.staleness
        self.on, self.lead = settings.finish != "off", settings.lead
        self._learner, self._experiment = learner, learner.experiment
        self._trained = networks_of(learner.model, learner.experiment.changing_helper)
        self._last_steps = last_steps(settings, learner.experiment.attack.steps)
        self._history = History(self.lead + 1)

    def remember(self) -> None:
        """Keep a copy of the present weights."""
        self._history.remember(self._learner.step, self._trained.state_dict(), self._learner.controls())

    def of(self, key: Key) -> tuple[int, Finish]:
        """The version of a ticket's head, and its finish."""
        step = self._learner.plan.step_of(key.epoch, key.number)
        return max(step - self.lead, 0), Finish(step, self._learner.epsilon(step))

    def older(self) -> list[Past]:
        """The weights before the present ones that heads still need."""
        return self._history.before(self._learner.step)

    def finisher(self) -> Finisher:
        """Makes attacks in this process, with a model of its own."""
        networks, context = self._experiment.attacker()
        return Finisher(context, _Kept(self._history, networks), self._last_steps)

    def attack(self, finisher: Finisher, tasks: list[Task]) -> list[Shard]:
        """The shards of the present step, as they would come out of the queue."""
        head, finish = self.of(tasks[0].key)
        return finish_all(finisher, tasks, head, finish, self.received)

    def received(self, shard: Shard) -> Shard:
        """A shard that was made in this process, as it would come out of the queue: rounded as queue.wire says."""
        return received(shard, self._learner.config.queue.wire)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._history.state()

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, with nothing remembered."""
        self._history.restore(state)


class _Kept:
    """The remembered weights, loaded into `networks`."""

    def __init__(self, history: History, networks: nn.Module) -> None:
        self._history, self._networks = history, networks

    def has(self, order: tuple[int, int]) -> bool:
        return self._history.holds(order[1])

    def newest(self, fence: int) -> int:
        return self._history.newest

    def load(self, order: tuple[int, int]) -> Controls:
        past = self._history.at(order[1])
        self._networks.load_state_dict(past.weights)
        return past.controls
