"""The loss surface around images: does the margin rise along the plain cross-entropy gradient more than elsewhere?

The gradient is that of the float32 cross-entropy, as attacks use it that know nothing of its saturation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturbed
from sparring.attacks.gradients import finite
from sparring.attacks.iteration import input_gradient
from sparring.attacks.losses import cross_entropy
from sparring.attacks.norms import largest_entries
from sparring.data import Dataset
from sparring.evaluation.outcomes import batches, logits_of
from sparring.models.forward import plain
from sparring.objectives.predictions import correct
from sparring.randomness import generator

LENGTHS = (1 / 16, 1 / 4, 1.0)  # of a step, relative to ε
DIRECTIONS = 10  # random directions that the gradient is compared with
PASSES = 5  # whose gradients are compared
SAME = 0.99  # cosine of two gradients, below which they differ


@dataclass(frozen=True)
class Surface:
    """What was measured at each of N clean images; bool on the CPU.

    correct: [N]. zero: [N], the gradient is exactly zero. varies: [N], another pass has another gradient.
    rises: [N, lengths], a step along the gradient raises the margin more than each of the random ones of that length.
    """

    correct: Tensor
    zero: Tensor
    varies: Tensor
    rises: Tensor

    def plain(self) -> dict[str, list[Any]]:
        """In plain types, for a file."""
        return {each.name: getattr(self, each.name).tolist() for each in fields(self)}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Surface:
        """The inverse of `plain`.

        Raises:
            KeyError, TypeError, ValueError: they are damaged.
        """
        found = {each.name: torch.tensor(values[each.name], dtype=torch.bool) for each in fields(cls)}
        if len({len(tensor) for tensor in found.values()}) != 1 or found["rises"].shape[1:] != (len(LENGTHS),):
            raise ValueError("not one value for each image")
        return cls(**found)


def surface(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    batch_size: int = 500,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Measure the surface within the ball of `attack`, by its step rule, with the model in eval mode and float32.

    Args:
        progress: called with (examples done, all examples).

    Raises:
        UsageError: the logits have no gradient with respect to the images.
    """
    model = plain(model)
    parts = []
    for first, x, y in batches(model, dataset, batch_size):
        parts.append(surface_at(model, x, y, attack, seed, first))
        if progress is not None:
            progress(first + len(y), len(dataset))
    return whole(parts)


def surface_at(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, first: int) -> Surface:
    """That of a batch, on the CPU. first: place of its first example in the data."""
    random = generator(seed, "surface", first)
    with frozen(model):
        one, *others = (finite(input_gradient(model, x, y, cross_entropy)) for _ in range(PASSES))
        varies = torch.stack([_differ(one, other) for other in others]).any(0)
        found_rises = [rises(model, x, y, one, attack, share * attack.epsilon, random) for share in LENGTHS]
        found = correct(logits_of(model, x), y), largest_entries(one) == 0, varies, torch.stack(found_rises, 1)
    return Surface(*(each.cpu() for each in found))


def whole(parts: Sequence[Surface]) -> Surface:
    """The surface of several batches."""
    names = [each.name for each in fields(Surface)]
    return Surface(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def rises(
    model: nn.Module, x: Tensor, y: Tensor, gradient: Tensor, attack: Attack, length: float, random: torch.Generator
) -> Tensor:
    """bool [N]: the margin after a step along the gradient is above those after the random steps. A tie is none."""
    along = _margin_after(model, x, y, gradient, attack, length)
    highest = torch.full_like(along, -math.inf)
    for _ in range(DIRECTIONS):
        direction = torch.randn(x.shape, generator=random).to(x.device)
        highest = torch.maximum(highest, _margin_after(model, x, y, direction, attack, length))
    return along > highest


def _margin_after(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, attack: Attack, length: float) -> Tensor:
    """float64 [N]: the highest other logit minus that of the label. Float32 does not round it away, however large."""
    sizes = torch.full((len(x),), length, device=x.device)
    stepped = attack.step(torch.zeros_like(x), direction, sizes, attack.state(x))
    logits = logits_of(model, perturbed(x, attack.project(stepped, x, length))).double()
    others, own = logits.scatter(1, y[:, None], -math.inf), logits.gather(1, y[:, None])
    margin: Tensor = others.amax(1) - own[:, 0]
    return margin


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """bool [N]: the directions of the two gradients differ, or one of them alone is zero."""
    units = [unit(each) for each in (one, other)]
    both_zero = (largest_entries(one) == 0) & (largest_entries(other) == 0)
    return ((units[0] * units[1]).sum(1) < SAME) & ~both_zero


def unit(gradient: Tensor) -> Tensor:
    """float64 [N, D], of length 1, or 0. In float64 no square of a float32 number underflows."""
    flat = gradient.double().flatten(1)
    lengths: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return flat / lengths.clamp_min(torch.finfo(torch.float64).tiny)
