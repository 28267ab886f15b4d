"""AutoAttack, the field's standard parameter-free ensemble, by the authors' package pyautoattack.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(ICML 2020, arXiv:2003.01690): APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square. Each attacks
only the examples that are still correct after those before it.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.attacks.norms import sizes
from sparring.errors import SparringError
from sparring.evaluation.finite import FinitePredictions
from sparring.evaluation.outcomes import logits_of
from sparring.machine.devices import device_of
from sparring.objectives.predictions import are_finite

log = logging.getLogger(__name__)
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
NEEDED_CLASSES = {"apgd-dlr": 3, "apgd-t": 4, "fab-t": 3}  # the DLR loss has three logits, the targeted one four
NORMS = {"linf": "Linf", "l2": "L2"}
STANDARD_CLASSES = 10  # the standard version has 9 target classes
SQUARE_QUERIES = 5000
MIN_SIDE = 5  # pixels: Square under L2 places 5 tiles along a side
PROGRESS_EVERY_S = 1.0
BATCH = re.compile(r"(\S+) - (\d+)/(\d+) - ")  # 'apgd-ce - 1/4 - 10 out of 250 successfully perturbed'

Progress = Callable[[str], None]


class Version(NamedTuple):
    """A version of the ensemble: its attacks in order, and their settings that differ between versions."""

    attacks: tuple[str, ...]
    apgd_restarts: int = 1
    fab_restarts: int = 1
    passes: int = 1  # whose mean gradient APGD takes: for networks that draw at random


VERSIONS = {
    "standard": Version(STANDARD),
    "plus": Version(("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), apgd_restarts=5, fab_restarts=5),
    "rand": Version(("apgd-ce", "apgd-dlr"), passes=20),
}
ATTACKS = VERSIONS["plus"].attacks  # all that there are


class Ensemble(NamedTuple):
    """Results per example, on the device of the images, and the package's warnings.

    alive: bool [N], correct on the clean image and after every attack. survived: as alive, but where logits are not
    finite with 0 in their place. images: float32 [N, C, H, W], of each example an attacked image that is misclassified,
    else the clean one. non_finite_gradient, non_finite_logits: bool [N], met somewhere in the ball; an example with the
    latter is not alive. queries: forward passes of single examples.
    """

    alive: Tensor
    survived: Tensor
    images: Tensor
    non_finite_gradient: Tensor
    non_finite_logits: Tensor
    queries: int
    warnings: list[str]


Predict = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, classes]


def attacks_for(classes: int, version: str = "standard", chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """The attacks of a version that work with this number of classes, or the `chosen` ones.

    With two classes the only target is the other class, so untargeted FAB is the same as targeted FAB.

    Raises:
        SparringError: a chosen one needs more classes.
    """
    for name in chosen:
        if classes < NEEDED_CLASSES.get(name, 2):
            raise SparringError(
                f"evaluation.attacks with {name!r} on data of {classes} classes: it needs {NEEDED_CLASSES[name]}. "
                f"Leave it out."
            )
    wanted = tuple(chosen) or VERSIONS[version].attacks
    if classes < NEEDED_CLASSES["fab-t"] and "fab" not in wanted:
        wanted = tuple("fab" if name == "fab-t" else name for name in wanted)
    return tuple(name for name in wanted if classes >= NEEDED_CLASSES.get(name, 2))


def describe(norm: str, epsilon: float, classes: int, version: str = "standard", chosen: Sequence[str] = ()) -> str:
    """Such as `AutoAttack standard (apgd-ce, apgd-t, fab-t, square), linf 0.3`, with the attacks that were used."""
    kind = "of" if chosen else version
    if classes < STANDARD_CLASSES:
        kind = f"for {classes} classes" if version == "standard" else f"{version} for {classes} classes"
    return f"AutoAttack {kind} ({', '.join(attacks_for(classes, version, chosen))}), {norm} {epsilon:.4g}"


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
    version: str = "standard",
    attacks: Sequence[str] = (),
    progress: Progress | None = None,
) -> Ensemble:
    """Attack by the ensemble. The model is attacked in eval mode on its own device.

    Args:
        x: float32 [N, C, H, W] in [0, 1], on any device. labels: int64 [N], on the same device.
        seed: seed of each attack on each batch, so the result also depends on `batch_size`.
        version: of `VERSIONS`. attacks: these of its attacks, in this order, instead of all.
        progress: called with a sentence (attacks, batches and forward passes done) after each batch of each attack and
            about once a second in between. An exception that it raises ends the evaluation and reaches the caller.

    Raises:
        SparringError: images too small or classes too few for the ensemble, or an attacked image outside the ball or
            outside [0, 1].
    """
    require_autoattack(x.shape, norm, classes)
    chosen = attacks_for(classes, version, attacks)
    ensemble = partial(
        _ensemble, norm=norm, epsilon=epsilon, classes=classes, seed=seed, version=version, attacks=chosen
    )
    return _attacked(model, x, labels, ensemble, chosen, norm, epsilon, batch_size, progress)


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
) -> Ensemble:
    """Attack by Square alone: random search with `queries` forward passes, no gradients.

    Andriushchenko et al. 2020 (arXiv:1912.00049). Its schedule is scaled to the queries. Otherwise as `autoattack`.
    """
    require_attackable(
        x.shape, norm, classes, f"evaluation.square_queries = {queries}", "Set evaluation.square_queries to 0"
    )

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
) -> Ensemble:
    x, device = x.float().contiguous(), device_of(model)
    listener, model_calls = _Listener(attacks, progress), FinitePredictions(model, x, norm, epsilon)

    def predict(images: Tensor) -> Tensor:
        listener.count_pass(len(images))
        return model_calls(images)

    images, alive = x.clone(), torch.zeros_like(labels, dtype=torch.bool)
    with frozen(model), _listening(listener), _tracing_kept(), _random_state_kept(device):
        sound = torch.cat([are_finite(logits_of(model, some.to(device))) for some in torch.split(x, batch_size)])
        where = sound.to(x.device).nonzero().flatten()
        if len(where):
            ensemble = make(predict, device)
            images[where], predictions = ensemble.run_standard_evaluation(
                x[where], labels[where], batch_size=batch_size
            )
            alive[where] = predictions == labels[where]
    _require_inside(images, x, norm, epsilon)
    listener.finish()
    broken = model_calls.non_finite_logits | ~sound.to(x.device)
    gradients, queries = model_calls.non_finite_gradient, listener.queries
    return Ensemble(alive & ~broken, alive, images, gradients, broken, queries, listener.warnings)


def _ensemble(
    predict: Predict,
    device: torch.device,
    *,
    norm: str,
    epsilon: float,
    classes: int,
    seed: int,
    version: str,
    attacks: tuple[str, ...],
) -> AutoAttack:
    """As the package's own versions, but with these attacks and, with fewer than 10 classes, all targets there are."""
    found, settings = _custom(predict, attacks, norm, epsilon, seed, device), VERSIONS[version]
    found.version = version  # "rand" leaves out the check for randomness
    found.apgd.n_restarts, found.apgd.eot_iter = settings.apgd_restarts, settings.passes
    found.apgd_targeted.n_restarts, found.fab.n_restarts = 1, settings.fab_restarts
    found.apgd_targeted.n_target_classes = found.fab.n_target_classes = min(classes, STANDARD_CLASSES) - 1
    found.square.n_queries = SQUARE_QUERIES
    return found


def _custom(
    predict: Predict, attacks: tuple[str, ...], norm: str, epsilon: float, seed: int, device: torch.device
) -> AutoAttack:
    return AutoAttack(predict, version="custom", attacks=list(attacks), **_common(norm, epsilon, seed, device))


def _common(norm: str, epsilon: float, seed: int, device: torch.device) -> dict[str, Any]:
    return {"norm": NORMS[norm], "eps": epsilon, "seed": seed, "device": device}


def incomplete(classes: int, version: str, chosen: Sequence[str]) -> list[str]:
    """A warning where chosen attacks leave out some of the standard version."""
    names = attacks_for(classes, version, chosen)
    missing = [name for name in attacks_for(classes) if name not in names] if chosen else []
    if not missing:
        return []
    return [
        f"Without {', '.join(missing)} this is not AutoAttack's standard version: robust accuracy may be higher than "
        f"under it. Leave evaluation.attacks out for a figure to publish."
    ]


def remarks(shares: Mapping[str, float]) -> list[str]:
    """The package's warning where Square breaks what the attacks by gradients have left.

    shares: accuracy after each attack, in order.
    """
    listener = _Listener(tuple(shares), None)
    with _listening(listener):
        checks.check_square_sr(shares, logger=logging.getLogger("auto-attack"))
    return listener.warnings


def require_autoattack(shape: Sequence[int], norm: str, classes: int) -> None:
    """Refuse what the ensemble cannot attack. shape: [..., H, W].

    Raises:
        SparringError: a norm that it does not know, or too few pixels or classes.
    """
    require_attackable(shape, norm, classes, "evaluation.attack = 'autoattack'", "Set evaluation.attack to 'pgd'")


def require_attackable(shape: Sequence[int], norm: str, classes: int, setting: str, remedy: str) -> None:
    if norm not in NORMS:
        raise SparringError(
            f"{setting} with an attack of norm {norm!r}: only {' and '.join(NORMS)} are supported. {remedy}."
        )
    if classes < 2:
        raise SparringError(
            f"{setting} on data of {classes} class: an attack needs another class as target. {remedy}, or data.name to "
            f"data of 2 classes or more."
        )
    side = min(shape[-2:])
    if norm == "l2" and side < MIN_SIDE:
        raise SparringError(
            f"{setting} with attack.norm = 'l2' on images of {side} pixels a side: the Square attack needs "
            f"{MIN_SIDE}. {remedy}."
        )


def _require_inside(images: Tensor, x: Tensor, norm: str, epsilon: float) -> None:
    """Check that the attacked images are inside the ball and in [0, 1]: else the robust accuracy would be wrong."""
    size = float(sizes(images - x, norm).max())
    low, high = float(images.min()), float(images.max())
    limit = epsilon + 1e-6 if norm == "linf" else epsilon * (1 + 1e-5) + 1e-6  # rounding of a float32 sum of squares
    if not (size <= limit and low >= 0 and high <= 1):  # written so that NaN is refused
        raise SparringError(
            f"evaluation.attack = 'autoattack' made perturbations of norm {size:.6g} with attack.epsilon = "
            f"{epsilon:.6g} ({norm}), and pixels in [{low:.6g}, {high:.6g}]: its robust accuracy would be wrong. "
            f"{_remedy(size)}"
        )


def _remedy(size: float) -> str:
    if math.isfinite(size):
        return "Set evaluation.attack to 'pgd'."
    return "Look in the model for what is not finite in the ball: a division, root or logarithm of 0, or an overflow."


class _Listener(logging.Handler):
    """Turns the package's log records into progress, and logs its warnings, each kind once."""

    def __init__(self, attacks: tuple[str, ...], progress: Progress | None) -> None:
        super().__init__()
        self.attacks, self.progress = attacks, progress
        self.passes = self.queries = self.attacks_done = 0
        self._batches = ""
        self._reported_at = time.monotonic()
        self._warned: set[str] = set()
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Exceptions of the caller's progress are not caught: nothing here calls handleError."""
        if record.levelno >= logging.WARNING and record.funcName not in self._warned:
            self._warned.add(str(record.funcName))
            self.warnings.append(f"AutoAttack: {record.getMessage()}")
            log.warning(self.warnings[-1])
        if found := BATCH.match(record.getMessage()):
            attack, number, batches = found[1], int(found[2]), int(found[3])
            ended = number == batches
            self.attacks_done = self.attacks.index(attack) + ended
            self._batches = "" if ended else f"{number} of {batches} batches of {attack}, "
            self._report()

    def count_pass(self, examples: int) -> None:
        """Report within a batch too: under Square one can take minutes, and the caller may want to stop."""
        self.passes += 1
        self.queries += examples
        if time.monotonic() - self._reported_at >= PROGRESS_EVERY_S:
            self._report()

    def finish(self) -> None:
        """Report the end: without a correct example left, the remaining attacks log nothing."""
        if self.attacks_done < len(self.attacks):
            self.attacks_done, self._batches = len(self.attacks), ""
            self._report()

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        if self.progress is not None and len(self.attacks) == 1:
            self.progress(f"{self.passes} forward passes")
        elif self.progress is not None:
            done = f"{self.attacks_done} of {len(self.attacks)} attacks done"
            self.progress(f"AutoAttack: {done}, {self._batches}{self.passes} forward passes")


@contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    """Send the package's log records to this listener only."""
    logger = logging.getLogger("auto-attack")
    level, propagate = logger.level, logger.propagate
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)  # warnings belong to the figure, also where the caller wants no logs
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _tracing_kept() -> Iterator[None]:
    """Restore sys.settrace: the package's check for dynamic defences removes the tracer of coverage and debuggers."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators, which the package seeds."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
