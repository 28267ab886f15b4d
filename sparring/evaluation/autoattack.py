"""AutoAttack (Croce and Hein 2020) through pyautoattack, whose results are those of the authors' code bit for bit."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.attacks.norms import Norm, l2_norms
from sparring.errors import SparringError

Progress = Callable[[int, int], None]
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
MOST_TARGETS = 9  # of the standard version
TOLERANCE = 1e-6  # how far rounding may carry an image out of its ball


def attacks_for(classes: int) -> tuple[str, ...]:
    """The ensemble: the standard one, less what needs more classes than there are.

    The targeted DLR loss compares four logits; with two classes there is one target, and an untargeted attack is the
    same.
    """
    if classes >= 4:
        return STANDARD
    return ("apgd-ce", "fab-t", "square") if classes == 3 else ("apgd-ce", "fab", "square")


def describe(norm: Norm, epsilon: float, classes: int) -> str:
    """AutoAttack standard (apgd-ce, apgd-t, fab-t, square), linf 0.3."""
    version = "standard" if classes > MOST_TARGETS else f"with {classes - 1} targets"
    return f"AutoAttack {version} ({', '.join(attacks_for(classes))}), {norm} {epsilon:.4g}"


def survivors(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    classes: int,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """bool [N]: which examples are right on the clean image and after every attack of the ensemble.

    Args:
        x: float32 [N, C, H, W] in [0, 1]; labels: int64 [N].
        progress: called with the share of the work done, in examples out of N; what it raises ends the judgement.

    Raises:
        SparringError: an attacked image lies outside its ball or the image box.
    """
    device = next(model.parameters()).device
    with frozen(model), _tracing_restored(), _followed(attacks_for(classes), len(x), progress):
        judge = _judge(model, norm, epsilon, classes, seed, device)
        attacked, answers = judge.run_standard_evaluation(x.cpu(), labels.cpu(), batch_size=batch_size)
    _require_inside(attacked, x.cpu(), norm, epsilon)
    right: Tensor = answers.cpu() == labels.cpu()
    return right


def _judge(model: nn.Module, norm: Norm, epsilon: float, classes: int, seed: int, device: torch.device) -> Any:
    from pyautoattack import AutoAttack  # type: ignore[import-untyped]

    common = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": epsilon, "seed": seed, "device": device}
    if classes > MOST_TARGETS:
        return AutoAttack(model, version="standard", **common)
    judge = AutoAttack(model, version="custom", attacks=list(attacks_for(classes)), **common)
    # `custom` leaves 5 restarts and 9 targets; the standard version has 1, and there are only so many targets.
    judge.apgd.n_restarts = judge.fab.n_restarts = judge.apgd_targeted.n_restarts = 1
    judge.apgd_targeted.n_target_classes = judge.fab.n_target_classes = classes - 1
    return judge


def _require_inside(attacked: Tensor, x: Tensor, norm: Norm, epsilon: float) -> None:
    delta = attacked - x
    size = delta.abs().amax() if norm == "linf" else l2_norms(delta).amax()
    low, high = torch.aminmax(attacked)
    if not (size <= epsilon * (1 + TOLERANCE) + TOLERANCE and low >= 0 and high <= 1):
        raise SparringError(
            f"evaluation.attack = 'autoattack' left its ball: size {float(size):.8g} of {epsilon:g}, images from "
            f"{float(low):.6g} to {float(high):.6g}. Its figure would not hold; report it with the model's name."
        )


@contextmanager
def _tracing_restored() -> Iterator[None]:
    """The library switches tracing off, and with it coverage and debuggers."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _followed(attacks: tuple[str, ...], total: int, progress: Progress | None) -> Iterator[None]:
    """Progress read off the library's log, and nothing of it printed."""
    log = logging.getLogger("auto-attack")
    handler = _Follower(attacks, total, progress)
    level, propagate = log.level, log.propagate
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(handler)
    try:
        if progress is not None:
            progress(0, total)
        yield
        if progress is not None:
            progress(total, total)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class _Follower(logging.Handler):
    """Turns `apgd-ce - 1/4 - 10 out of 250 successfully perturbed` into progress."""

    def __init__(self, attacks: tuple[str, ...], total: int, progress: Progress | None) -> None:
        super().__init__()
        self.attacks, self.total, self.progress = attacks, total, progress

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"([\w-]+) - (\d+)/(\d+) - ", record.getMessage())
        if found is None or self.progress is None or found[1] not in self.attacks:
            return
        share = (self.attacks.index(found[1]) + int(found[2]) / int(found[3])) / len(self.attacks)
        self.progress(int(share * self.total), self.total)
