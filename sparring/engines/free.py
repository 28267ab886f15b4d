"""Free adversarial training (Shafahi et al. 2019; Wong et al., Algorithm 2): engine sync with train.replays = m.

    δ = 0
    for every epoch, for every batch, m times:
        one pass: the gradient of the loss by the images and by the weights
        δ ← into the image, into the ball (δ + ε·sign of the former)
        one optimizer step with the latter

δ is kept between batches, row by row; a shorter last batch takes and replaces the first rows, as in the authors' code.
Theirs adds it to a new batch as it is, here it is first projected to the new images. The pass is one of training, so
batch norm takes the batch's statistics for both.

Run it: sparring train recipes/cifar10-free.toml
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import Attack, perturbed
from sparring.errors import SparringError
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.consumed import consumed_by
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.trainer.session import Session


@dataclass
class Kept:
    """What goes on from step to step: δ of the last batches, float32 [M·b, C, H, W], and the next replay's number."""

    delta: Tensor
    replay: int = 0


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    plan, learner = experiment.plan, session.learner
    consumed = consumed_by(resumed)
    kept = _kept(experiment, resumed, learner.device)
    session.extra = lambda: {"delta": kept.delta.cpu(), "replay": kept.replay}
    for keys in plan.steps(consumed.epoch, consumed.done):
        if session.should_stop() or not session.ready_for(keys[0].epoch, consumed.ledger_state()):
            break
        x, y, sizes = _batch(session, keys)
        rows = slice(0, len(y))
        for replay in range(kept.replay, plan.replays):
            if session.should_stop():
                return session.finish(consumed.ledger_state())
            attack = _attack(learner)
            delta = attack.project(kept.delta[rows], x, attack.radius)
            x_adv = perturbed(x, delta).requires_grad_()
            session.learn(_shards(keys, delta, y, sizes, learner.step, attack), Batch(x, x_adv, y))
            if x_adv.grad is None:
                raise SparringError("train.replays: the pass gave no gradient of the images.")
            size = torch.full((len(y),), attack.alpha, device=x.device)
            stepped = attack.step(delta, x_adv.grad, size, {})
            kept.delta[rows] = attack.project(stepped, x, attack.radius)
            kept.replay = (replay + 1) % plan.replays
            if kept.replay == 0:
                consumed.add(keys)
            ends = kept.replay == 0 and keys[-1].number == plan.shards(keys[0].epoch) - 1
            session.after_step(consumed.ledger_state(), last_of_epoch=ends)
    return session.finish(consumed.ledger_state())


def _kept(experiment: Experiment, resumed: Checkpoint | None, device: torch.device) -> Kept:
    """As it was at the checkpoint, or δ = 0."""
    if resumed is not None and resumed.extra is not None:
        return Kept(resumed.extra["delta"].to(device), int(resumed.extra["replay"]))
    rows = experiment.plan.batch_size * experiment.plan.shards_per_step
    return Kept(torch.zeros(rows, *experiment.training.shape, device=device))


def _attack(learner: Learner) -> Attack:
    """The single step of the recipe at the present ε."""
    attack = learner.context.attack_now(learner.controls())
    if not isinstance(attack, Attack):
        raise SparringError(f"train.replays: attack {attack.name!r} has no gradient step. Set attack.name to 'fgsm'.")
    return attack


def _batch(session: Session, keys: list[Key]) -> tuple[Tensor, Tensor, list[int]]:
    """Images and labels of the tickets put together, and how many each has."""
    x, y = session.learner.examples(*keys)
    return x, y, [len(session.plan.indices(key.epoch, key.number)) for key in keys]


def _shards(keys: list[Key], delta: Tensor, y: Tensor, sizes: list[int], version: int, attack: Attack) -> list[Shard]:
    """What this step trains on, for the records: one gradient by example."""
    parts = zip(keys, torch.split(delta, sizes), torch.split(y, sizes), strict=True)
    return [
        Shard(key, 0, version, version, attack.record, d, labels, gradients=len(labels)) for key, d, labels in parts
    ]
