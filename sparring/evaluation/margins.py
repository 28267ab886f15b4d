"""The smallest perturbation of each example that changes its class, by a minimum-norm attack under L∞, L2 or L1.

FAB, untargeted and towards each other class, by its authors' package pyautoattack: Croce & Hein, "Minimally distorted
adversarial examples with a fast adaptive boundary attack" (ICML 2020, arXiv:1907.02044). What it finds is drawn
towards the clean image as far as it stays misclassified. A size is an upper bound of the example's margin: another
attack may find a smaller one, so the share of larger sizes is an upper bound of the robust accuracy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.data import Dataset, Sample, batch
from sparring.data.sampling import Draw
from sparring.errors import SparringError
from sparring.evaluation.outcomes import logits_of
from sparring.evaluation.robustness import interval
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import are_finite

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
MOST_TARGETS, HALVINGS = 9, 12
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Margins:
    """Sizes of the smallest perturbations found: float64 [N], 0 where the clean image is misclassified, infinite where
    none was found."""

    norm: str
    sizes: Tensor
    attack: str
    rule: str
    seconds: float

    def share_above(self, epsilon: float) -> tuple[float, tuple[float, float]]:
        """Of the examples, those that nothing within ε was found for, and the interval."""
        count = int((self.sizes > epsilon).sum())
        return count / len(self.sizes), interval(count, len(self.sizes))

    def as_dict(self, epsilon: float | None) -> dict[str, Any]:
        """For JSON. epsilon: of the run, where its norm is this one; infinite sizes are null."""
        ordered = [_number(size) for size in self.sizes.sort().values.tolist()]
        last = len(ordered) - 1
        found: dict[str, Any] = {
            "norm": self.norm,
            "attack": self.attack,
            "samples": len(self.sizes),
            "misclassified": int((self.sizes == 0).sum()),
            "not_found": int(self.sizes.isinf().sum()),
            "quantiles": {f"{share:g}": ordered[min(last, int(share * len(ordered)))] for share in SHARES},
            "drawn": self.rule,
            "seconds": self.seconds,
            "sizes": [_number(size) for size in self.sizes.tolist()],
        }
        if epsilon is not None:
            share, bounds = self.share_above(epsilon)
            found |= {"epsilon": epsilon, "share_above_epsilon": share, "interval": bounds}
        return found


def margins(
    model: nn.Module,
    dataset: Dataset,
    norm: str,
    *,
    samples: int | None = None,
    draw: Draw = "stratified",
    steps: int = 100,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Margins:
    """Attack the examples with FAB, the model in eval mode and float32.

    Args:
        samples, draw: the examples; see `Sample`. steps: FAB's iterations, for each target.

    Raises:
        SparringError: the model's logits on clean images are not finite.
    """
    began, sample, model = time.perf_counter(), Sample(dataset, samples, draw), plain(model)
    device, found = device_of(model), list[Tensor]()
    with frozen(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for places in torch.split(torch.arange(len(sample)), batch_size):
            if progress is not None:
                progress(f"{sum(map(len, found))} of {len(sample)} test examples attacked")
            x, y = batch(sample, places, augment="none", seed=seed, epoch=0)
            found.append(smallest(model, x.to(device), y.to(device), norm, dataset.classes, steps, seed).cpu())
    return Margins(norm, torch.cat(found), f"FAB, {steps} iterations, {norm}", sample.rule, time.perf_counter() - began)


def smallest(model: nn.Module, x: Tensor, labels: Tensor, norm: str, classes: int, steps: int, seed: int) -> Tensor:
    """The sizes for one batch; x: float32 [N, C, H, W] in [0, 1]; float64 [N]."""
    logits = logits_of(model, x)
    if not are_finite(logits).all():
        raise SparringError("the model's logits on clean images are not finite: there is no margin to look for.")
    attack = FABAttack_PT(model, norm=NORMS[norm], n_iter=steps, seed=seed, device=x.device)
    sizes = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    torch.manual_seed(seed)
    for target in (None, *range(2, 2 + min(MOST_TARGETS, classes - 1))):
        attack.target_class = target  # 2: the class of the second largest logit
        candidates = attack.attack_single_run(x, labels, is_targeted=target is not None).clamp(0, 1)
        candidates = drawn_back(model, x, candidates, labels)
        wrong = misclassified(model, candidates, labels)
        sizes = torch.where(wrong, torch.minimum(sizes, sizes_of(candidates - x, norm)), sizes)
    return torch.where(logits.argmax(1) != labels, 0.0, sizes)


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


def _number(size: float) -> float | None:
    return size if math.isfinite(size) else None
