"""Free adversarial training (Shafahi et al. 2019; Wong et al., Algorithm 2): engine sync with train.replays = m.

    δ = 0
    for every epoch, for every batch, m times:
        one pass: the gradient of the loss by the images and by the weights
        δ ← into the image, into the ball (δ + ε·sign of the former)
        one optimizer step with the latter

δ is kept between batches, row by row; a shorter last batch takes and replaces the first rows, as in the authors' code.
Their code adds δ to a new batch as it is; here δ is first projected to the new images. The pass is made in train mode,
so batch norm uses the statistics of the batch for both gradients.

Run it: sparring train recipes/cifar10-free.toml
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.attacks import Attack, GradientCheck, perturbed
from sparring.attacks.gradients import finite
from sparring.errors import SparringError
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.trainer.session import Session


class Kept:
    """The perturbations that are kept from batch to batch, float32 [largest step, C, H, W].

    check: of their last gradients.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        rows = experiment.plan.largest_step
        self.delta = torch.zeros(rows, *experiment.training.shape, device=device)
        self.check = GradientCheck(rows, device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"delta": self.delta.cpu()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, from zero."""
        self.delta.copy_(torch.zeros_like(self.delta) if state is None else state["delta"])


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    learner, kept = session.learner, Kept(experiment, session.learner.device)
    session.training.register("free", kept, resumed)
    keys: tuple[Key, ...] = ()
    for step in session.steps(resumed):
        if step.keys != keys:
            keys = step.keys
            x, y = learner.examples(*keys)
        attack, rows = _attack(learner), slice(0, len(y))
        delta = attack.project(kept.delta[rows], x, attack.radius)
        x_adv = perturbed(x, delta).requires_grad_()
        session.learn(_shards(session, keys, delta, y, attack, kept.check), Batch(x, x_adv, y))
        if x_adv.grad is None:
            raise SparringError(
                "train.replays above 1: the pass gave no gradient of the images. Take an objective that uses the "
                "attacked images, or set train.replays to 1."
            )
        kept.check = GradientCheck(len(kept.delta), x.device)
        kept.check.note(x_adv.grad, rows)
        size = torch.full((len(y),), attack.alpha, device=x.device)
        kept.delta[rows] = attack.project(attack.step(delta, finite(x_adv.grad), size, {}), x, attack.radius)
    return session.finish()


def _attack(learner: Learner) -> Attack:
    """The single step of the recipe at the present ε."""
    attack = learner.context.attack_now(learner.controls())
    if not isinstance(attack, Attack):
        raise SparringError(
            f"train.replays: attack {attack.name!r} has no gradient step. Choose one that has, such as 'fgsm'."
        )
    return attack


def _shards(
    session: Session, keys: tuple[Key, ...], delta: Tensor, y: Tensor, attack: Attack, check: GradientCheck
) -> list[Shard]:
    """The shards of this step for the records, with one gradient evaluation per example."""
    sizes, version = [len(session.plan.indices(key.epoch, key.number)) for key in keys], session.learner.step
    of_delta, of_labels = torch.split(delta, sizes), torch.split(y, sizes)
    zero, non_finite = (torch.split(each[: len(y)], sizes) for each in (check.zero, check.non_finite))
    return [
        Shard(
            key,
            0,
            version,
            version,
            attack.record,
            of_delta[number],
            of_labels[number],
            gradients=sizes[number],
            zero_gradients=int(zero[number].sum()),
            non_finite_gradients=int(non_finite[number].sum()),
        )
        for number, key in enumerate(keys)
    ]
