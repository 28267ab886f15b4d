"""LBGAT (Cui et al. 2021, "Learnable Boundary Guided Adversarial Training"): a helper network trained beside the model.

    loss = MSE(f(x'), g(x)) + CE(g(x), y) + β·KL(p(x) ‖ p(x'))

f is the robust model; g is a natural network, whose logits on clean images the model learns to give on attacked ones.
One optimizer trains both. The attack is that of TRADES, with β = 0 too:

    sparring train --engine sync --objective.name examples/lbgat.py:LBGAT --objective.beta 0 \
        --train.epochs 2

Loss and order of the passes are those of the authors' code, whose MSE is a mean over examples and classes. They train
a ResNet-18 beside a wide ResNet; here `network` is any model.name. β = 0 and β = 6 are their values for CIFAR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import DIVERGENCE, cross_entropy
from sparring.config import ModelSettings
from sparring.models import build
from sparring.objectives import Batch, Helper, Objective, kl_divergence, weighted_mean


class LBGAT(Objective):
    """beta: β as above; network: model.name of the natural network, which begins with weights of its own."""

    attack_loss = DIVERGENCE
    attack_start = "gaussian"

    def __init__(self, beta: float, network: str = "digits-cnn") -> None:
        self.beta, self.network = beta, network

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        seed = torch.initial_seed()  # follows from train.seed
        return Helper(build(ModelSettings(name=self.network), shape, classes, seed), trained=True)

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module) -> tuple[Tensor, Tensor]:
        attacked, clean, natural = model(batch.x_adv), model(batch.x), helper(batch.x)
        guidance = (attacked.float() - natural.float()).square().mean(1) + cross_entropy(natural, batch.labels)
        divergence = kl_divergence(attacked, clean.float().softmax(1))
        return weighted_mean(guidance + self.beta * divergence, batch.weights), attacked
