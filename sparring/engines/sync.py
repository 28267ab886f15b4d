"""Synchronous adversarial training, the reference that everything is compared with.

    for every epoch, for every batch:
        attack it with the present weights           (inner maximisation)
        one optimizer step on the attacked batch     (outer minimisation)

Run it: sparring train RECIPE --engine sync
"""

from __future__ import annotations

from sparring.config import slots_of
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.consumed import consumed_by
from sparring.trainer.experiment import Experiment
from sparring.trainer.session import Session
from sparring.workers.attackers import produce_all
from sparring.workers.task import Task


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    plan, learner = experiment.plan, session.learner
    consumed = consumed_by(resumed)
    for keys in plan.steps(consumed.epoch, consumed.done):
        if session.should_stop() or not session.ready_for(keys[0].epoch, consumed.ledger_state()):
            break
        controls, version = learner.controls(), learner.step
        tasks = [
            Task(key, plan.indices(key.epoch, key.number), start=session.start_of(key, controls.epsilon))
            for key in keys
        ]
        shards = produce_all(tasks, learner.context, controls, version, slots_of(experiment.config))
        session.learn(shards)
        for shard in shards:
            session.state.consumed(staleness=version - shard.version)
        consumed.add(keys)
        session.after_step(consumed.ledger_state(), last_of_epoch=keys[-1].number == plan.shards(keys[0].epoch) - 1)
    return session.finish(consumed.ledger_state())
