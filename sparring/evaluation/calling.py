"""`sparring.evaluate`: clean and robust accuracy of the user's own model on the user's own data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparring.attacks import PGD, Attack
from sparring.attacks.calling import require_ball
from sparring.data import Dataset
from sparring.data.training import scaled
from sparring.data.wrapping import wrap
from sparring.errors import SparringError
from sparring.evaluation import robustness
from sparring.evaluation.autoattack import require_attackable
from sparring.evaluation.robustness import Evaluation, Progress
from sparring.models.outputs import outputs_of

STEPS, RESTARTS = 50, 3


def evaluate(
    model: nn.Module,
    data: Any,
    attack: str | Attack = "pgd",
    epsilon: float | None = None,
    *,
    norm: str = "linf",
    steps: int = STEPS,
    step_size: float | None = None,
    restarts: int = RESTARTS,
    samples: int | None = None,
    classes: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Clean and robust accuracy with 95 % intervals; an example is robust only if it survives every restart.

    Args:
        model: maps float32 images in [0, 1] to logits [N, K]; it normalises inside (`sparring.Normalize`). It is
            evaluated in eval mode on its device and restored afterwards.
        data: a torch Dataset or DataLoader of (image, label), or a pair (images, labels); images uint8 or in [0, 1].
        attack: "pgd", "autoattack" (Croce & Hein 2020, with its own steps and restarts), or an Attack.
        epsilon: radius of the ball in pixel intensities, such as 8/255. An Attack has its own radius.
        norm: "linf" or "l2". steps, step_size, restarts: of PGD; the step size is 2.5·ε/steps by default.
        samples: evaluate only the first `samples` examples; by default all. classes: by default as the data declare.
        per_example: also return the result of each example, in `Evaluation.verdicts`.
        progress: called with a sentence about the progress.

    Raises:
        ValueError: an argument is wrong; it is named.
    """
    declared = wrap(data, "data", classes)
    outputs = outputs_of(model, scaled(declared.images(torch.arange(1))), declared.classes)
    dataset = wrap(data, "data", outputs if classes is None else classes)
    threat = _threat(attack, epsilon, norm, steps, step_size, restarts)
    _require_possible(threat, dataset, by_autoattack=attack == "autoattack")
    _require_count("batch_size", batch_size)
    if samples is not None:
        _require_count("samples", samples)
    how: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "seed": seed}
    with torch.inference_mode(False), torch.enable_grad():
        if attack == "autoattack":
            found = robustness.evaluate_by_autoattack(model, dataset, threat, progress=progress, **how)
        else:
            found = robustness.evaluate(model, dataset, threat, progress=robustness.counted(progress), **how)
    return found if per_example else found.without_verdicts()


def _threat(
    attack: str | Attack, epsilon: float | None, norm: str, steps: int, step_size: float | None, restarts: int
) -> Attack:
    if isinstance(attack, Attack):
        if epsilon is not None:
            raise ValueError(f"epsilon = {epsilon}: the attack has its own, {attack.epsilon}. Give one of the two.")
        return attack
    if attack not in ("pgd", "autoattack"):
        raise ValueError(f"attack = {attack!r}: it must be 'pgd', 'autoattack', or a sparring.attacks.Attack.")
    if epsilon is None:
        raise ValueError("epsilon is missing: the radius of the ball in pixel intensities, such as 8/255.")
    return PGD(epsilon, norm=norm, steps=steps, step_size=step_size, restarts=restarts)


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
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} = {count!r}: an integer of at least 1 is needed.")
