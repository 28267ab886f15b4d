"""Synchronous adversarial training, the reference for all other engines.

    for every epoch, for every batch:
        attack it with the present weights           (inner maximisation)
        one optimizer step on the attacked batch     (outer minimisation)

With `staleness.finish` the attack begins with the weights of `staleness.lead` steps before, and only its last steps use
the present ones (workers/finish.py). The weights are those of `--engine ray` with the same settings, bit for bit.

Run it: sparring train RECIPE --engine sync
"""

from __future__ import annotations

from sparring.config import slots_of
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.session import Session
from sparring.workers.attackers import produce_all


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    learner, slots = session.learner, slots_of(experiment.config, experiment.attack.makes_views)
    finisher = session.heads.finisher() if session.heads.on else None
    for step in session.steps(resumed):
        # Inner maximisation: perturbations under the present weights, in eval mode.
        if finisher is None:
            shards = produce_all(session.tasks(step), learner.context, learner.controls(), learner.step, slots)
        else:
            shards = session.heads.attack(finisher, session.tasks(step))
        # Outer minimisation: the learning rate is set and the model in train mode, with AWP at its perturbed weights.
        with session.update(shards) as update:
            loss, correct = update.forward()  # the objective on clean and attacked images
            update.backward(loss, correct)
            update.optimizer_step()
    return session.finish()
