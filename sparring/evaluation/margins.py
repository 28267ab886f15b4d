"""The smallest perturbation of each example that changes its class, by minimum-norm attacks under L∞, L2 or L1.

FAB, untargeted and towards each other class, by its authors' package pyautoattack: Croce & Hein, "Minimally distorted
adversarial examples with a fast adaptive boundary attack" (ICML 2020, arXiv:1907.02044); under L2 also Carlini and
Wagner's (carlini_wagner.py). What they find is drawn towards the clean image as far as it stays misclassified. A size
is an upper bound of the example's margin: another attack may find a smaller one, so the share of larger sizes is an
upper bound of the robust accuracy.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, PGD, frozen
from sparring.attacks.iteration import input_gradient
from sparring.attacks.norms import NORMS as BALLS
from sparring.attacks.norms import largest_entries
from sparring.data import Dataset, Sample
from sparring.data.sampling import Draw
from sparring.errors import SparringError
from sparring.evaluation.carlini_wagner import SEARCHES, STEPS, carlini_wagner
from sparring.evaluation.findings import findings_of, warnings_of
from sparring.evaluation.fooled import fooled
from sparring.evaluation.memory import Memory, Results
from sparring.evaluation.outcomes import Outcomes, batches, clean_outcomes, joined, logits_of, variation
from sparring.evaluation.robustness import interval
from sparring.evaluation.tickets import InProcess, Judges, Work, each_on_all
from sparring.models.forward import plain
from sparring.objectives.predictions import are_finite

log = logging.getLogger(__name__)

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
ITERATIONS = {"fab": 100, "cw": STEPS}
DESCRIBED = {"fab": "FAB, 100 iterations", "cw": f"Carlini-Wagner, {SEARCHES} searches of {STEPS} steps"}
MOST_TARGETS, HALVINGS = 9, 12
STEPS_WITHIN = 20  # of the attacks that look at what nothing was found for
WELL_ABOVE = 1.25  # times the median: the sizes of sound networks are not so much too large
WIDE = 0.25  # of the largest distance of two images: a radius where no size was found
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Margins:
    """Sizes of the smallest perturbations found: float64 [N], 0 where the clean image is misclassified, infinite where
    none was found. by_attack: those of each attack; the smallest of them count. warnings: what may make them too
    large."""

    norm: str
    by_attack: dict[str, Tensor]
    rule: str
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> Tensor:
        return torch.stack(list(self.by_attack.values())).amin(0)

    def share_above(self, epsilon: float) -> tuple[float, tuple[float, float]]:
        """Of the examples, those that nothing within ε was found for, and the interval."""
        count = int((self.sizes > epsilon).sum())
        return count / len(self.sizes), interval(count, len(self.sizes))

    def as_dict(self, epsilon: float | None) -> dict[str, Any]:
        """For JSON. epsilon: of the run, where its norm is this one; infinite sizes are null."""
        sizes = self.sizes
        found: dict[str, Any] = {
            "norm": self.norm,
            "attack": f"{' and '.join(DESCRIBED[name] for name in self.by_attack)}, {self.norm}",
            "samples": len(sizes),
            "misclassified": int((sizes == 0).sum()),
            "not_found": int(sizes.isinf().sum()),
            "quantiles": quantiles(sizes),
            "by_attack": {name: quantiles(each) for name, each in self.by_attack.items()},
            "drawn": self.rule,
            "seconds": self.seconds,
            "sizes": _numbers(sizes),
            "warnings": list(self.warnings),
        }
        if epsilon is not None:
            share, bounds = self.share_above(epsilon)
            found |= {"epsilon": epsilon, "share_above_epsilon": share, "interval": bounds}
        return found


def quantiles(sizes: Tensor) -> dict[str, float | None]:
    """The sizes that so large shares of the examples are broken within; null: nothing was found."""
    ordered, last = _numbers(sizes.sort().values), len(sizes) - 1
    return {f"{share:g}": ordered[min(last, int(share * len(ordered)))] for share in SHARES}


@dataclass(frozen=True)
class Smallest:
    """Work: the sizes of a batch by one of the attacks, float64 [n] on the CPU."""

    attack: str
    norm: str
    classes: int
    steps: int
    seed: int

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> Tensor:
        (model,) = models
        with frozen(model), torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            found = smallest(model, x, y, self.norm, self.classes, self.steps, self.seed, self.attack)
        return found.cpu()


def margins(
    model: nn.Module,
    dataset: Dataset,
    norm: str,
    *,
    epsilon: float | None = None,
    attacks: Sequence[str] = ("fab",),
    samples: int | None = None,
    draw: Draw = "stratified",
    steps: Mapping[str, int] = ITERATIONS,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
    judges: Judges | None = None,
    results: Results | None = None,
) -> Margins:
    """Attack the examples, the model in eval mode and float32.

    Args:
        epsilon: a radius at which the sizes are looked at for masked gradients; None: at their median.
        attacks: of ITERATIONS; cw is for L2 alone. samples, draw: the examples; see `Sample`. steps: of each attack.
        judges: who does it, with this model; by default this process. results: known ones are not made again.

    Raises:
        SparringError: the model's logits on clean images are not finite.
    """
    began, sample = time.perf_counter(), Sample(dataset, samples, draw)
    works = [Smallest(attack, norm, dataset.classes, steps[attack], seed) for attack in attacks]
    memory: Memory[Tensor] = Memory(results, sample.indices.tolist(), attacks, _numbers, _sizes)
    found = each_on_all(
        InProcess([model]) if judges is None else judges,
        sample,
        [partial(_same, work) for work in works],
        batch_size,
        memory=memory,
        report=None if progress is None else partial(_tell, progress),
    )
    by_attack = {attack: torch.cat(parts) for attack, parts in zip(attacks, found, strict=True)}
    margins = Margins(norm, by_attack, sample.rule, time.perf_counter() - began)
    warnings = _doubts(plain(model), sample, margins, epsilon, batch_size, seed)
    return replace(margins, warnings=(*sample.warnings, *warnings), seconds=time.perf_counter() - began)


def _doubts(
    model: nn.Module, sample: Sample, margins: Margins, epsilon: float | None, batch_size: int, seed: int
) -> list[str]:
    """What may make the sizes too large: probabilities, gradients of zero, a model that varies, and those above a
    radius that other attacks break within it."""
    right = margins.sizes > 0
    with frozen(model):
        parts = [_of_batch(model, *each, right) for each in batches(model, sample, batch_size)]
    doubts = warnings_of(findings_of(joined(parts)))
    if margins.norm in BALLS:
        doubts += _broken_within(model, sample, margins, epsilon, seed)
    for doubt in doubts:
        log.warning("margins: %s", doubt)
    return doubts


def _of_batch(model: nn.Module, first: int, x: Tensor, y: Tensor, right: Tensor) -> Outcomes:
    """What the clean images of a batch show, on the CPU. right: bool, of all examples, what has been attacked."""
    clean, gradient = clean_outcomes(model, x, y), largest_entries(input_gradient(model, x, y, CROSS_ENTROPY))
    found = replace(
        clean,
        zero_gradient=gradient == 0,
        non_finite_gradient=~gradient.isfinite(),
        confidence=torch.ones_like(clean.confidence),  # the attacks do not depend on the scale of the logits
        varies=variation(model, x) if first == 0 else clean.varies,
    ).cpu()
    return replace(found, robust=right[first : first + len(y)])


def _broken_within(model: nn.Module, sample: Sample, margins: Margins, epsilon: float | None, seed: int) -> list[str]:
    """Warnings if other attacks break within ε examples of larger sizes; without an ε, those well above the median."""
    sizes, within = margins.sizes, epsilon
    if within is None:
        found = sizes[(sizes > 0) & sizes.isfinite()]
        within = float(found.median()) if len(found) else WIDE * PGD(0.0, norm=margins.norm).largest(sample.shape)
        sizes = sizes / WELL_ABOVE
    pgd = PGD(within, norm=margins.norm, steps=STEPS_WITHIN)
    texts = fooled(model, sample, pgd, (sizes > within).nonzero().flatten(), seed)
    return [f"Within {margins.norm} {within:.3g}: {text}" for text in texts] if epsilon is None else texts


def _same(work: Work, places: tuple[int, ...]) -> Work:
    return work


def _tell(progress: Progress, done: int, total: int) -> None:
    progress(f"{done} of {total} tickets done, each a batch under one of the attacks")


def smallest(
    model: nn.Module, x: Tensor, labels: Tensor, norm: str, classes: int, steps: int, seed: int, attack: str = "fab"
) -> Tensor:
    """The sizes for one batch; x: float32 [N, C, H, W] in [0, 1]; float64 [N]."""
    logits = logits_of(model, x)
    if not are_finite(logits).all():
        raise SparringError("the model's logits on clean images are not finite: there is no margin to look for.")
    sizes = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    if attack == "fab":
        images: Iterable[Tensor] = _by_fab(model, x, labels, norm, classes, steps, seed)
    else:
        images = [carlini_wagner(model, x, labels, steps)]
    for found in images:
        candidates = drawn_back(model, x, found.clamp(0, 1), labels)
        wrong = misclassified(model, candidates, labels)
        sizes = torch.where(wrong, torch.minimum(sizes, sizes_of(candidates - x, norm)), sizes)
    return torch.where(logits.argmax(1) != labels, 0.0, sizes)


def _by_fab(
    model: nn.Module, x: Tensor, labels: Tensor, norm: str, classes: int, steps: int, seed: int
) -> Iterator[Tensor]:
    """Images that it finds, untargeted and towards each other class."""
    attack = FABAttack_PT(model, norm=NORMS[norm], n_iter=steps, seed=seed, device=x.device)
    torch.manual_seed(seed)
    for target in (None, *range(2, 2 + min(MOST_TARGETS, classes - 1))):
        attack.target_class = target  # 2: the class of the second largest logit
        yield attack.attack_single_run(x, labels, is_targeted=target is not None)


def drawn_back(model: nn.Module, x: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    """Halve the way between the clean and the found image as long as what is left stays misclassified."""
    low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        wrong = misclassified(model, _between(x, found, middle), labels)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    return _between(x, found, high)


def misclassified(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """bool [N]; logits that are not finite count as wrong."""
    logits = logits_of(model, images)
    wrong: Tensor = (logits.argmax(1) != labels) | ~are_finite(logits)
    return wrong


def sizes_of(delta: Tensor, norm: str) -> Tensor:
    """float64 [N]."""
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1).double(), ord=ORDERS[norm], dim=1)
    return found


def _between(x: Tensor, found: Tensor, share: Tensor) -> Tensor:
    """At 1 exactly what was found."""
    weight = share.view(-1, *[1] * (x.ndim - 1))
    return torch.where(weight == 1, found, x + weight * (found - x))


def _numbers(sizes: Tensor) -> list[float | None]:
    """For JSON: infinite ones are null."""
    return [size if math.isfinite(size) else None for size in sizes.tolist()]


def _sizes(numbers: Any) -> Tensor:
    """The inverse of `_numbers`."""
    return torch.tensor([math.inf if size is None else size for size in numbers], dtype=torch.float64)
