"""The steps of a run that has been made, made again in one process, as its steps.jsonl tells them.

A shard is a function of its ticket and of the weights of its attack steps, whose versions are recorded; a step is one
of its shards in their order. So the weights are the same again, whatever the timing was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from sparring.attacks import frozen
from sparring.config import Config, trainer_threads, worker_threads
from sparring.errors import SparringError
from sparring.queue.codec import received
from sparring.queue.messages import TRAINER, Key, Shard
from sparring.trainer.experiment import Experiment
from sparring.trainer.history import History, Past, networks_of
from sparring.trainer.session import Session
from sparring.workers.generator import begin
from sparring.workers.task import Task


class MadeBy(NamedTuple):
    """A shard of a recorded step: its ticket, who attacked it, the version that prepared it, and those of its attack
    steps, each with a number of steps."""

    key: Key
    worker: str
    prepared: int
    steps: tuple[tuple[int, int], ...]


def steps_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, list[MadeBy]]:
    """The shards of each step by the lines of steps.jsonl; of a step that was repeated the last line counts.

    Raises:
        SparringError: the lines are damaged, or of a version of Sparring that did not record them.
    """
    found = {}
    for line in lines:
        if "made_by" not in line:
            raise SparringError(
                f"steps.jsonl does not say which weights made the attacks of step {line.get('step')}: the run was made "
                f"by an earlier version. Train it again."
            )
        try:
            found[int(line["step"])] = _shards_of(line)
        except (KeyError, TypeError, ValueError) as error:
            raise SparringError(
                f"steps.jsonl: the line of step {line.get('step')} is damaged ({error!r}). Put back a copy of it."
            ) from error
    return found


def _shards_of(line: Mapping[str, Any]) -> list[MadeBy]:
    made = zip(line["tickets"], line["workers"], line["made_by"], strict=True)
    return [
        MadeBy(Key(line["epoch"], ticket, 0), worker, prepared, tuple((version, count) for version, count in steps))
        for ticket, worker, (prepared, *steps) in made
    ]


def oldest_needed(steps: Mapping[int, list[MadeBy]], after: int) -> int:
    """The oldest version that attacked or prepared a shard of the steps after `after`; `after` where there are none."""
    return min((shard.prepared for step, shards in steps.items() if step > after for shard in shards), default=after)


def run(session: Session, experiment: Experiment, steps: Mapping[int, list[MadeBy]], config: Config) -> str:
    """Make the steps after the session's present one again; returns how it ended. config: of the run that was made."""
    learner = session.learner
    oldest = max((step - shard.prepared for step, shards in steps.items() for shard in shards), default=1)
    again = Attacks(experiment, session, config, kept=oldest)
    again.remember()
    while (step := learner.step + 1) in steps and not session.should_stop():
        made = steps[step]
        epoch = made[0].key.epoch
        if not session.ready_for(epoch):
            break
        shards = [again.attack(each) for each in made]
        if (refresh := session.staleness.remedies.refresh) not in (0, "auto"):
            shards = session.refreshed(shards, int(refresh))
        session.watch_staleness(shards)
        session.learn(shards)
        again.remember()
        following = steps.get(step + 1)
        session.after_step(last_of_epoch=following is None or following[0].key.epoch != epoch)
    return session.finish()


class Attacks:
    """Attackers with the weights of earlier steps: workers, whose shards came through the queue, and the trainer."""

    def __init__(self, experiment: Experiment, session: Session, config: Config, kept: int) -> None:
        self.experiment, self.session = experiment, session
        self.networks, self.context = experiment.attacker()
        self.trained = networks_of(session.learner.model, experiment.changing_helper)
        self.history = History(kept)
        self.wire = config.queue.wire
        self.threads = threads_of(config)

    def remember(self) -> None:
        """Keep the present weights."""
        learner = self.session.learner
        self.history.remember(learner.step, self.trained.state_dict(), learner.controls())

    def attack(self, made: MadeBy) -> Shard:
        """The shard again."""
        own = made.worker.startswith(TRAINER)
        torch.set_num_threads(self.threads[0] if own else self.threads[1])
        controls = self._load(made.prepared).controls
        task = Task(made.key, self.experiment.plan.indices(made.key.epoch, made.key.number), worker=made.worker)
        with frozen(self.context.model):
            work = begin(task, self.context, controls, made.prepared)
            for version, count in made.steps:
                self._load(version)
                for _ in range(count):
                    work.advance(version)
            shard = work.shard()
        torch.set_num_threads(self.threads[0])
        return shard if own else received(shard, self.wire)

    def _load(self, version: int) -> Past:
        if not self.history.holds(version):
            raise SparringError(f"steps.jsonl names version {version} where there is none: it is damaged.")
        past = self.history.at(version)
        self.networks.load_state_dict(past.weights)
        return past


def threads_of(config: Config) -> tuple[int, int]:
    """Threads of the trainer and of a worker: sums of floats may depend on them."""
    of_trainer = trainer_threads(config)
    if config.engine == "virtual":
        return of_trainer, of_trainer
    return of_trainer, worker_threads(config.workers, config.trainer.count)
