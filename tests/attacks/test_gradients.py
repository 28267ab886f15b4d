"""What an attack notes of its gradients, and what it does with entries that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, GradientCheck, frozen, iterate, perturb, result_of
from tests.support.batches import images, seeded, small_network


class Spoilt(nn.Module):
    """A network whose gradient by the images is what `spoil` makes of it."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.spoil = small_network(), spoil

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 6, 6]."""
        inner = x.clone()
        if inner.requires_grad:
            inner.register_hook(self.spoil)  # type: ignore[no-untyped-call]
        logits: Tensor = self.network(inner)
        return logits


def noted(spoil: Callable[[Tensor], Tensor], attack: PGD, counts: Tensor | None = None) -> tuple[GradientCheck, Tensor]:
    model, (x, y) = Spoilt(spoil), images()
    check = GradientCheck(len(x), x.device)
    with frozen(model):
        delta = result_of(iterate(model, x, y, attack, seeded(), step_counts=counts, check=check))
    return check, delta


@pytest.mark.parametrize("attack", [PGD(0.1, steps=3), PGD(0.5, norm="l2", steps=3, restarts=2)])
def test_examples_without_a_gradient_are_noted_and_the_others_are_attacked(attack: PGD) -> None:
    def spoil(gradient: Tensor) -> Tensor:
        return gradient * (torch.arange(len(gradient)) % 3 > 0).view(-1, 1, 1, 1)

    check, _ = noted(spoil, attack)
    assert check.zero.tolist() == [number % 3 == 0 for number in range(len(check.zero))]
    assert not check.non_finite.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_entry_that_is_not_finite_counts_as_zero(value: float, norm: str) -> None:
    def spoil(gradient: Tensor) -> Tensor:
        spoilt = gradient.clone()
        spoilt[:, :, 0, 0] = torch.where(torch.arange(len(gradient)) % 2 == 0, value, gradient[:, 0, 0, 0])[:, None]
        return spoilt

    def masked(gradient: Tensor) -> Tensor:
        zeroed = gradient.clone()
        zeroed[::2, :, 0, 0] = 0
        return zeroed

    attack = PGD(0.1, norm=norm, steps=4, start="zero")
    check, delta = noted(spoil, attack)
    assert check.non_finite.tolist() == [number % 2 == 0 for number in range(len(delta))] and not check.zero.any()
    assert torch.equal(delta, noted(masked, attack)[1])


def test_what_is_noted_belongs_to_the_example_where_examples_have_different_numbers_of_steps() -> None:
    x, _ = images()
    counts = torch.arange(len(x)) % 4

    def spoil(gradient: Tensor) -> Tensor:
        return 0 * gradient

    assert noted(spoil, PGD(0.1, steps=3), counts)[0].zero.tolist() == (counts > 0).tolist()


def test_without_a_check_an_attack_is_the_same() -> None:
    model, (x, y) = small_network(), images()
    attack, check = PGD(0.1, norm="l2", steps=3), GradientCheck(len(x), x.device)
    with frozen(model):
        assert torch.equal(perturb(model, x, y, attack, seeded(), check=check), perturb(model, x, y, attack, seeded()))
    assert not check.zero.any() and not check.non_finite.any()
