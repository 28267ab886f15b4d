"""AutoAttack, the field's standard ensemble without settings of its own, through the authors' package pyautoattack.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(ICML 2020, arXiv:2003.01690): APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square; each attacks
what those before it left standing.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.attacks.norms import l2_norms
from sparring.errors import SparringError
from sparring.machine.devices import device_of

log = logging.getLogger(__name__)
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
NORMS = {"linf": "Linf", "l2": "L2"}
STANDARD_CLASSES = 10  # the standard version has 9 target classes
SQUARE_QUERIES = 5000
SMALLEST_SIDE = 5  # Square under L2 lays 5 tiles along a side
PULSE_S = 1.0
BATCH = re.compile(r"(\S+) - (\d+)/(\d+) - ")  # 'apgd-ce - 1/4 - 10 out of 250 successfully perturbed'

Progress = Callable[[str], None]
Predict = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, classes]


def attacks_for(classes: int) -> tuple[str, ...]:
    """The ensemble's attacks that so many classes allow: the targeted DLR loss takes four logits, targets take three.

    With two classes the one target is the other class, so that untargeted FAB is the targeted one.
    """
    if classes > 3:
        return STANDARD
    return ("apgd-ce", "fab-t", "square") if classes == 3 else ("apgd-ce", "fab", "square")


def describe(norm: str, epsilon: float, classes: int) -> str:
    """AutoAttack standard (apgd-ce, apgd-t, fab-t, square), linf 0.3; what fewer classes left out is not listed."""
    kind = "standard" if classes >= STANDARD_CLASSES else f"for {classes} classes"
    return f"AutoAttack {kind} ({', '.join(attacks_for(classes))}), {norm} {epsilon:.4g}"


def autoattack(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: str,
    epsilon: float,
    classes: int,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Which examples survive the ensemble; the model is attacked in eval mode on its own device.

    Args:
        x: float32 [N, C, H, W] in [0, 1], on any device. labels: int64 [N], beside it.
        seed: each attack on each batch starts from it, so that the answer depends on `batch_size` too.
        progress: called with a sentence (attacks, batches and forward passes done) after each batch of each attack and
            about once a second in between; an exception from it ends the judgement and reaches the caller.

    Returns:
        bool [N], beside x: right on the clean image and after every attack.

    Raises:
        SparringError: the images or classes are too few for the ensemble, or it left the ball or the image box.
    """
    require_autoattack(x.shape, norm, classes)
    ensemble = partial(_ensemble, norm=norm, epsilon=epsilon, classes=classes, seed=seed)
    return _attacked(model, x, labels, ensemble, attacks_for(classes), norm, epsilon, batch_size, progress)


def square(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: str,
    epsilon: float,
    classes: int,
    seed: int,
    queries: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Which examples survive the Square attack alone: random search by `queries` forward passes, no gradients.

    Andriushchenko et al. 2020 (arXiv:1912.00049); its schedule is scaled to the queries. Otherwise as `autoattack`.
    """
    require_room(x.shape, norm, classes, f"evaluation.square_queries = {queries}", "Set evaluation.square_queries to 0")

    def ensemble(predict: Predict, device: torch.device) -> AutoAttack:
        found = _custom(predict, ("square",), norm, epsilon, seed, device)
        found.square.n_queries, found.square.rescale_schedule = queries, True
        return found

    return _attacked(model, x, labels, ensemble, ("square",), norm, epsilon, batch_size, progress)


def _attacked(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    make: Callable[[Predict, torch.device], AutoAttack],
    attacks: tuple[str, ...],
    norm: str,
    epsilon: float,
    batch_size: int,
    progress: Progress | None,
) -> Tensor:
    x, device = x.float().contiguous(), device_of(model)
    listener = _Listener(attacks, progress)

    def predict(images: Tensor) -> Tensor:
        listener.pulse()
        logits: Tensor = model(images)
        return logits

    with frozen(model), _listening(listener), _tracing_kept(), _random_state_kept(device):
        images, answers = make(predict, device).run_standard_evaluation(x, labels, batch_size=batch_size)
    _require_inside(images, x, norm, epsilon)
    listener.finish()
    survivors: Tensor = answers == labels
    return survivors


def _ensemble(
    predict: Predict, device: torch.device, *, norm: str, epsilon: float, classes: int, seed: int
) -> AutoAttack:
    if classes >= STANDARD_CLASSES:
        return AutoAttack(predict, version="standard", **_common(norm, epsilon, seed, device))
    ensemble = _custom(predict, attacks_for(classes), norm, epsilon, seed, device)
    ensemble.apgd.n_restarts = ensemble.apgd_targeted.n_restarts = ensemble.fab.n_restarts = 1  # custom leaves 5
    ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = classes - 1
    ensemble.square.n_queries = SQUARE_QUERIES
    return ensemble


def _custom(
    predict: Predict, attacks: tuple[str, ...], norm: str, epsilon: float, seed: int, device: torch.device
) -> AutoAttack:
    return AutoAttack(predict, version="custom", attacks=list(attacks), **_common(norm, epsilon, seed, device))


def _common(norm: str, epsilon: float, seed: int, device: torch.device) -> dict[str, Any]:
    return {"norm": NORMS[norm], "eps": epsilon, "seed": seed, "device": device}


def require_autoattack(shape: Sequence[int], norm: str, classes: int) -> None:
    """Refuse what the ensemble cannot attack. shape: [..., H, W].

    Raises:
        SparringError: a norm that it does not know, or too few pixels or classes.
    """
    require_room(shape, norm, classes, "evaluation.attack = 'autoattack'", "Set evaluation.attack to 'pgd'")


def require_room(shape: Sequence[int], norm: str, classes: int, setting: str, remedy: str) -> None:
    if norm not in NORMS:
        raise SparringError(
            f"{setting} with an attack of norm {norm!r}: it knows {' and '.join(NORMS)} alone. {remedy}."
        )
    if classes < 2:
        raise SparringError(
            f"{setting} on data of {classes} class: it needs another class to lead to. {remedy}, or data.name to data "
            f"of 2 classes or more."
        )
    side = min(shape[-2:])
    if norm == "l2" and side < SMALLEST_SIDE:
        raise SparringError(
            f"{setting} with attack.norm = 'l2' on images of {side} pixels a side: the Square attack needs "
            f"{SMALLEST_SIDE}. {remedy}."
        )


def _require_inside(images: Tensor, x: Tensor, norm: str, epsilon: float) -> None:
    """A robust accuracy under a larger threat than asked for would be no robust accuracy."""
    delta = (images - x).flatten(1)
    size = float((delta.abs().amax(1) if norm == "linf" else l2_norms(delta)).max())
    low, high = float(images.min()), float(images.max())
    limit = epsilon + 1e-6 if norm == "linf" else epsilon * (1 + 1e-5) + 1e-6  # float32 sums of thousands of squares
    if not (size <= limit and low >= 0 and high <= 1):  # so that NaN is refused
        raise SparringError(
            f"evaluation.attack = 'autoattack' went {size:.6g} far with attack.epsilon = {epsilon:.6g} ({norm}), to "
            f"pixels in [{low:.6g}, {high:.6g}]: its figure would not hold. Set evaluation.attack to 'pgd'."
        )


class _Listener(logging.Handler):
    """Turns what the package logs into progress, and passes its warnings on, each kind once."""

    def __init__(self, attacks: tuple[str, ...], progress: Progress | None) -> None:
        super().__init__()
        self.attacks, self.progress = attacks, progress
        self.passes = self.attacks_done = 0
        self._batches = ""
        self._told_at = time.monotonic()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """What the caller's progress raises goes through: nothing here calls handleError."""
        if record.levelno >= logging.WARNING and record.funcName not in self._warned:
            self._warned.add(str(record.funcName))
            log.warning("AutoAttack: %s", record.getMessage())
        if found := BATCH.match(record.getMessage()):
            attack, number, batches = found[1], int(found[2]), int(found[3])
            ended = number == batches
            self.attacks_done = self.attacks.index(attack) + ended
            self._batches = "" if ended else f"{number} of {batches} batches of {attack}, "
            self._tell()

    def pulse(self) -> None:
        """One batch under Square can take minutes: its caller may want to stop within."""
        self.passes += 1
        if time.monotonic() - self._told_at >= PULSE_S:
            self._tell()

    def finish(self) -> None:
        """Where no example is left, the remaining attacks say nothing."""
        if self.attacks_done < len(self.attacks):
            self.attacks_done, self._batches = len(self.attacks), ""
            self._tell()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        if self.progress is not None:
            done = f"{self.attacks_done} of {len(self.attacks)} attacks done"
            self.progress(f"AutoAttack: {done}, {self._batches}{self.passes} forward passes")


@contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    """The package logs to this listener alone."""
    logger = logging.getLogger("auto-attack")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _tracing_kept() -> Iterator[None]:
    """The package's check for dynamic defences ends with sys.settrace(None): coverage and debuggers would go blind."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """The package seeds torch's global generators."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
