"""`sparring.evaluate`: clean and robust accuracy of the user's own model on the user's own data."""

from __future__ import annotations

import logging
from dataclasses import replace
from numbers import Integral
from typing import Any, get_args

import torch
from torch import nn

from sparring.attacks import PGD, Attack
from sparring.attacks.calling import require_ball, require_slope
from sparring.data import Dataset, Sample, batch
from sparring.data.sampling import Draw
from sparring.data.training import scaled
from sparring.data.wrapping import wrap
from sparring.errors import SparringError
from sparring.evaluation import robustness
from sparring.evaluation.autoattack import require_attackable
from sparring.evaluation.normalisation import normalised_outside
from sparring.evaluation.robustness import Evaluation, Progress
from sparring.machine.modes import alone_with, usual_modes
from sparring.models.forward import plain
from sparring.models.outputs import outputs_of

log = logging.getLogger(__name__)
DOUBT_EXAMPLES = 256  # on which it is tried whether the model is made for normalised images
STEPS, RESTARTS = 50, 3


def evaluate(
    model: nn.Module,
    data: Any,
    attack: str | Attack = "pgd",
    epsilon: float | None = None,
    *,
    norm: str | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    samples: int | None = None,
    draw: Draw = "stratified",
    classes: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Clean and robust accuracy with 95 % intervals; an example is robust only if it survives every restart.

    Args:
        model: maps float32 images in [0, 1] to logits [N, K]; it normalises inside (`sparring.Normalize`). It is
            evaluated in eval mode on its device, by one thread at a time, and restored afterwards.
        data: a torch Dataset or DataLoader of (image, label), or a pair (images, labels); images uint8 or in [0, 1].
        attack: "pgd", "autoattack" (Croce & Hein 2020, with its own steps and restarts), or an Attack.
        epsilon: radius of the ball in pixel intensities, such as 8/255.
        norm: "linf" (default) or "l2". steps (50), step_size (2.5·ε/steps), restarts (3): of "pgd". An Attack has its
            own epsilon, norm and steps; what it would ignore is refused.
        samples: evaluate only on this number of examples; by default on all. draw: "stratified" (each class in its
            share, at random, but always the same) or "first". classes: by default as the data declare.
        per_example: also return the result of each example, in `Evaluation.verdicts`.
        progress: called with a sentence about the progress.

    Raises:
        ValueError: an argument is wrong; it is named.
    """
    with usual_modes(), alone_with(model):
        declared = wrap(data, "data", classes)
        outputs = outputs_of(model, scaled(declared.images(torch.arange(1))), declared.classes)
        dataset = wrap(data, "data", outputs if classes is None else classes)
        threat = _threat(attack, epsilon, norm, {"steps": steps, "step_size": step_size, "restarts": restarts})
        _require_possible(threat, dataset, by_autoattack=attack == "autoattack")
        _require_count("batch_size", batch_size)
        if not isinstance(seed, Integral):
            raise ValueError(f"seed = {seed!r}: an integer is needed.")
        if samples is not None:
            _require_count("samples", samples)
        if draw not in get_args(Draw):
            raise ValueError(f"draw = {draw!r}: it must be {' or '.join(map(repr, get_args(Draw)))}.")
        how: dict[str, Any] = {"samples": samples, "draw": draw, "batch_size": batch_size, "seed": seed}
        some = Sample(dataset, DOUBT_EXAMPLES)
        x, y = batch(some, torch.arange(len(some)), augment="none", seed=0, epoch=0)
        doubts = normalised_outside(plain(model), x, y)
        for doubt in doubts:
            log.warning(doubt)
        if attack == "autoattack":
            found = robustness.evaluate_by_autoattack(model, dataset, threat, progress=progress, **how)
        else:
            found = robustness.evaluate(model, dataset, threat, progress=robustness.counted(progress), **how)
        found = replace(found, warnings=(*found.warnings, *doubts))
        return found if per_example else found.without_verdicts()


def _threat(attack: str | Attack, epsilon: float | None, norm: str | None, pgd: dict[str, Any]) -> Attack:
    """The attack whose ball is evaluated. pgd: arguments that are for attack="pgd" alone."""
    pgd = {name: value for name, value in pgd.items() if value is not None}
    if isinstance(attack, Attack):
        given = {name: value for name, value in {"epsilon": epsilon, "norm": norm, **pgd}.items() if value is not None}
        for name, value in given.items():
            raise ValueError(f"{name} = {value!r}: the attack has its own. Set it there, or give attack='pgd'.")
        require_slope(attack)
        return attack
    if attack not in ("pgd", "autoattack"):
        raise ValueError(f"attack = {attack!r}: it must be 'pgd', 'autoattack', or a sparring.attacks.Attack.")
    if attack == "autoattack":
        for name, value in pgd.items():
            raise ValueError(f"{name} = {value!r}: AutoAttack has its own. Leave it out, or give attack='pgd'.")
    if epsilon is None:
        raise ValueError("epsilon is missing: the radius of the ball in pixel intensities, such as 8/255.")
    return PGD(epsilon, norm="linf" if norm is None else norm, **{"steps": STEPS, "restarts": RESTARTS, **pgd})


def _require_possible(threat: Attack, dataset: Dataset, *, by_autoattack: bool) -> None:
    """Refuse a ball that is too large for the images, and images or classes that AutoAttack cannot attack."""
    x = scaled(dataset.images(torch.arange(1)))
    require_ball(threat, x)
    if by_autoattack:
        try:
            require_attackable(x.shape, threat.norm, dataset.classes, "attack = 'autoattack'", "Set attack to 'pgd'")
        except SparringError as error:
            raise ValueError(str(error)) from error


def _require_count(name: str, count: int) -> None:
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} = {count!r}: an integer of at least 1 is needed.")
