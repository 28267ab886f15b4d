"""HAT (Rade & Moosavi-Dezfooli 2022, "Reducing Excessive Margin ..."): an objective with a frozen helper network.

    loss = CE(f(x), y) + β·KL(p(x) ‖ p(x')) + γ·CE(f(x + h·(x' − x)), label that a standard network gives x')

The attack is that of TRADES. First a standard network, trained practically without an attack, then HAT with it:

    sparring train --engine sync --name standard --attack.name fgsm --attack.epsilon 1e-6 --train.epochs 5
    sparring train --engine sync --objective.name examples/hat.py:HAT --objective.options.standard runs/standard \
        --objective.beta 2.5 --objective.options.gamma 0.5 --train.epochs 2

Loss and order of the passes are those of the authors' code. As there, helper examples are not clamped to [0, 1];
h = 2, β = 2.5 and γ = 0.5 are their values for CIFAR-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import DIVERGENCE
from sparring.objectives import Batch, Helper, Objective, pgd_at, trades


class HAT(Objective):
    """standard: the folder of the run that has trained the standard network; beta, gamma, h: as above."""

    attack_loss = DIVERGENCE
    attack_start = "gaussian"

    def __init__(self, standard: str, beta: float, gamma: float = 0.5, h: float = 2.0) -> None:
        self.standard, self.beta, self.gamma, self.h = standard, beta, gamma, h

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        return Helper(sparring.load_model(self.standard))

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            helper_labels = helper(batch.x_adv).argmax(1)
        clean, attacked = model(batch.x), model(batch.x_adv)
        helped = model(batch.x + self.h * (batch.x_adv - batch.x))
        robust = trades(clean, attacked, batch.labels, self.beta, weights=batch.weights)
        return robust + self.gamma * pgd_at(helped, helper_labels, weights=batch.weights), attacked
