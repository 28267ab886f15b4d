"""Exact staleness in one process, the simulated staleness of Bhat et al.

Every batch after the first s is attacked with the weights of s steps ago, as if it had waited in a queue of s
batches. With `simulated.exchange` the attack starts s steps stale, newer weights are swapped in evenly between its
steps, and its last step has `simulated.final_staleness`.

Run it: sparring train RECIPE --engine simulated --staleness 32
"""

from __future__ import annotations

from sparring.config import SimulatedSettings
from sparring.queue.messages import Key, Shard
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.history import History, networks_of
from sparring.trainer.session import Session
from sparring.workers.generator import begin
from sparring.workers.task import Task


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    learner, settings = session.learner, experiment.config.simulated
    attacker = Attacker(experiment, settings.staleness)
    session.training.register("simulated", attacker.history, resumed)
    trained = networks_of(learner.model, experiment.changing_helper)
    for step in session.steps(resumed):
        attacker.history.remember(learner.step, trained.state_dict(), learner.controls())
        remedies = session.staleness.remedies
        exactly = settings.model_copy(update={"staleness": remedies.depth})
        shards = [attacker.attack(key, learner.step, exactly, session) for key in step.keys]
        if remedies.refresh not in (0, "auto"):
            shards = session.refreshed(shards, int(remedies.refresh))
        session.watch_staleness(shards)
        session.learn(shards)
    return session.finish()


class Attacker:
    """A worker's model, with a helper network that changes, and their weights at the last s + 1 steps."""

    def __init__(self, experiment: Experiment, staleness: int) -> None:
        self.experiment = experiment
        self.networks, self.context = experiment.attacker()
        self.history = History(staleness + 1)

    def attack(self, key: Key, step: int, settings: SimulatedSettings, session: Session) -> Shard:
        """Attack a ticket that is consumed at `step`; `session` gives its warm start, if there is one."""
        experiment, (version, weights, controls) = self.experiment, self.history.at(step - settings.staleness)
        self.networks.load_state_dict(weights)
        indices = experiment.plan.indices(key.epoch, key.number)
        task = Task(key, indices, start=session.start_of(key, controls.epsilon))
        work = begin(task, self.context, controls, version)
        for staleness in staleness_schedule(settings, work.steps):
            version, weights, _ = self.history.at(step - staleness)
            self.networks.load_state_dict(weights)
            work.advance(version)
        return work.shard()


def staleness_schedule(settings: SimulatedSettings, steps: int) -> list[int]:
    """Staleness of every attack step: constant, or falling evenly to the final one under exchange."""
    if not settings.exchange or steps <= 1:
        return [settings.staleness] * steps
    first, last = settings.staleness, min(settings.final_staleness, settings.staleness)
    return [round(first + (last - first) * step / (steps - 1)) for step in range(steps)]
