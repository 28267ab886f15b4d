"""Attacks: FGSM, FGSM-RS, N-FGSM and PGD under L∞ and L2, and AugMix's views.

adv = PGD(epsilon=8 / 255, steps=10)(model, images, labels)
"""

from sparring.attacks.attack import PGD, Attack, AttackRecord, Start, State
from sparring.attacks.fgsm import FGSM, FGSMRS, NFGSM
from sparring.attacks.gradients import GradientCheck
from sparring.attacks.iteration import frozen, input_gradient, iterate, perturb, result_of, targets_of
from sparring.attacks.losses import CROSS_ENTROPY, DIVERGENCE, AttackLoss, cross_entropy
from sparring.attacks.norms import Norm, perturbed, project, project_ball
from sparring.attacks.starts import WarmStart

__all__ = [
    "CROSS_ENTROPY",
    "DIVERGENCE",
    "FGSM",
    "FGSMRS",
    "NFGSM",
    "PGD",
    "Attack",
    "AttackLoss",
    "AttackRecord",
    "GradientCheck",
    "Norm",
    "Start",
    "State",
    "WarmStart",
    "cross_entropy",
    "frozen",
    "input_gradient",
    "iterate",
    "perturb",
    "perturbed",
    "project",
    "project_ball",
    "result_of",
    "targets_of",
]
