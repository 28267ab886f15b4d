"""How images are attacked: FGSM, FGSM-RS and PGD under L∞ and L2."""

from sparring.attacks.gradient import (
    Attack,
    attack_from,
    cross_entropy,
    frozen,
    input_gradient,
    iterate,
    perturb,
    warmed_up,
)
from sparring.attacks.norms import Norm, perturbed, project, project_ball

__all__ = [
    "Attack",
    "Norm",
    "attack_from",
    "cross_entropy",
    "frozen",
    "input_gradient",
    "iterate",
    "perturb",
    "perturbed",
    "project",
    "project_ball",
    "warmed_up",
]
