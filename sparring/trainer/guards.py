"""Guards: what watches the training itself and steps in.

Overfitting: FGSM training can lose its robustness within a few hundred steps while its loss goes on falling
(catastrophic overfitting, paper 003). A few PGD steps on a training batch show it; then the weights go back to the
last good ones. Staleness: where shards have aged so much that they are weak against the present weights, remedies are
switched on, the cheapest first (design, section 4). Neither looks at anything but training examples.
"""

from __future__ import annotations

from torch import Tensor, nn

from sparring.attacks import Attack, Norm, frozen, perturb, perturbed
from sparring.errors import SparringError
from sparring.randomness import generator

PGD_STEPS = 5


class RollBack(SparringError):
    """The present weights are not to be used: training goes on from good ones, or ends."""


class NonFinite(RollBack):
    """The loss, its gradient or a weight is not a number."""


class Overfitted(RollBack):
    """Robust accuracy on a training batch has fallen further than the guard allows."""


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float, seed: int, step: int) -> float:
    """Share of a training batch that is classified right after PGD-5 with steps of 2.5·ε/5 from a random start.

    x: float32 [N, C, H, W] in [0, 1]; y: int64 [N]; epsilon: pixel intensity.
    """
    attack = Attack(norm, epsilon, PGD_STEPS, 2.5 * epsilon / PGD_STEPS)
    with frozen(model):
        delta = perturb(model, x, y, attack, generator(seed, "guard", step))
        right: Tensor = model(perturbed(x, delta)).argmax(1) == y
    return float(right.float().mean())
