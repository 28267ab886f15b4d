"""The surface around images: where the gradient leads up, where it is zero, and where it is another in each pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.errors import UsageError
from sparring.evaluation.surfaces import LENGTHS, Surface, surface
from tests.support.models import Brightness, Shattered, greys

DATA = greys(torch.linspace(0.1, 0.4, 12))


class Scaled(Brightness):
    def forward(self, x: Tensor) -> Tensor:
        return 1e6 * super().forward(x)


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Misleading(Brightness):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Backwards.apply(x))  # type: ignore[no-untyped-call]


class Detached(Brightness):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def around(model: nn.Module, norm: str = "linf") -> Surface:
    return surface(model, DATA, PGD(0.05 if norm == "linf" else 0.4, norm=norm))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_model_the_gradient_beats_every_random_direction(norm: str) -> None:
    found = around(Brightness(), norm)
    assert found.correct.all() and not found.zero.any() and not found.varies.any()
    assert found.rises.shape == (12, len(LENGTHS)) and found.rises.all()


def test_a_gradient_that_float32_rounds_away_is_zero_and_leads_nowhere() -> None:
    found = around(Scaled())
    assert found.zero.all() and not found.rises.any()
    assert around(Shattered()).zero.all()


def test_a_gradient_that_leads_down_beats_nothing() -> None:
    found = around(Misleading())
    assert not found.zero.any() and not found.rises.any()


def test_a_model_that_draws_at_random_has_another_gradient_in_each_pass() -> None:
    class Noisy(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * torch.rand_like(x))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert around(Noisy()).varies.all()


def test_without_a_gradient_it_is_refused() -> None:
    with pytest.raises(UsageError, match="its logits have no gradient"):
        around(Detached())


def test_batches_and_calls_agree_and_progress_counts_examples() -> None:
    seen: list[tuple[int, int]] = []
    whole = around(Brightness())
    parts = surface(Brightness(), DATA, PGD(0.05), batch_size=5, progress=lambda *done: seen.append(done))
    assert seen == [(5, 12), (10, 12), (12, 12)] and torch.equal(whole.rises, parts.rises)


def test_a_tiny_gradient_has_a_direction() -> None:
    class Faint(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return math.ldexp(1.0, -100) * super().forward(x)

    found = around(Faint())
    assert not found.zero.any() and not found.varies.any() and found.rises.all()
