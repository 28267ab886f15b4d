"""Balls, the image box, random starts and steps, under both norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparring.attacks.norms import ascend, l2_norms, perturbed, project, project_ball, random_start
from tests.support.batches import images, seeded

NORMS = ("linf", "l2")


def noise(scale: float, count: int = 16) -> Tensor:
    return scale * torch.randn(count, 1, 6, 6, generator=seeded(9))


def sizes(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_outside_comes_to_the_surface_and_what_is_inside_stays(norm: str) -> None:
    outside, inside = noise(5.0), noise(1e-3)
    assert torch.allclose(sizes(project_ball(outside, norm, 0.3), norm), torch.full((16,), 0.3))
    assert torch.equal(project_ball(inside, norm, 0.3), inside)
    assert torch.equal(project_ball(torch.zeros(2, 1, 6, 6), norm, 0.3), torch.zeros(2, 1, 6, 6))


@pytest.mark.parametrize("norm", NORMS)
def test_each_example_may_have_its_own_radius(norm: str) -> None:
    radii = torch.linspace(0.1, 0.5, 16)
    assert torch.allclose(sizes(project_ball(noise(5.0), norm, radii), norm), radii)


@pytest.mark.parametrize("norm", NORMS)
def test_the_image_box_does_not_lead_out_of_the_ball_again(norm: str) -> None:
    x, _ = images()
    delta = project(noise(5.0), x, norm, 0.5)
    assert sizes(delta, norm).max() <= 0.5 + 1e-6
    assert (x + delta).min() >= -1e-7 and (x + delta).max() <= 1 + 1e-7
    assert perturbed(x, delta).min() >= 0 and perturbed(x, delta).max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_fills_the_ball_evenly(norm: str) -> None:
    x = torch.zeros(4000, 1, 1, 2)
    start = random_start(x, norm, 0.3, seeded())
    assert sizes(start, norm).max() <= 0.3 + 1e-6
    within = float((sizes(start, norm) < 0.15).float().mean())
    assert within == pytest.approx(0.25, abs=0.03), "half the radius bounds a quarter of a ball in two dimensions"
    assert start.flatten(1).mean(0).abs().max() < 0.01


def test_a_step_goes_along_the_sign_or_the_normalised_gradient() -> None:
    gradient, at = noise(7.0), torch.zeros(16, 1, 6, 6)
    assert torch.equal(ascend(at, gradient, "linf", 0.1), 0.1 * gradient.sign())
    stepped = ascend(at, gradient, "l2", torch.linspace(0.1, 0.5, 16))
    assert torch.allclose(l2_norms(stepped), torch.linspace(0.1, 0.5, 16))
    cosine = torch.nn.functional.cosine_similarity(stepped.flatten(1), gradient.flatten(1))
    assert torch.allclose(cosine, torch.ones(16))


@pytest.mark.parametrize("scale", [1e-12, 1e-20, 1e-30, 1e-37, 1e-42, 1e-44, 1e30, 1e37])
def test_a_step_has_its_full_length_however_small_the_gradient(scale: float) -> None:
    gradient = (noise(1.0).double() * scale).float()
    stepped = ascend(torch.zeros_like(gradient), gradient, "l2", 0.1)
    exact = gradient.double()  # float64 holds the squares of all float32
    expected = 0.1 * exact / exact.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(stepped.double(), expected, atol=1e-7)


def test_a_gradient_of_ordinary_size_makes_the_same_step_to_the_last_bit() -> None:
    gradient = noise(1.0) * torch.logspace(-6, 6, 16).view(-1, 1, 1, 1)
    plain = 0.1 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.equal(ascend(torch.zeros_like(gradient), gradient, "l2", 0.1), plain)


def test_without_a_gradient_nothing_moves() -> None:
    nothing = torch.zeros(2, 1, 6, 6)
    for norm in NORMS:
        assert torch.equal(ascend(nothing, nothing, norm, 0.1), nothing)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [-0.1, float("nan")])
def test_a_ball_of_no_radius_is_refused(norm: str, epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon = .*: the radius of a ball must be at least 0"):
        project_ball(noise(1.0), norm, epsilon)


USES: list[Callable[[Tensor, str], Tensor]] = [
    lambda delta, norm: project_ball(delta, norm, 0.1),
    lambda delta, norm: random_start(delta, norm, 0.1, seeded()),
    lambda delta, norm: ascend(delta, delta, norm, 0.1),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("norm", ["Linf", "l1", ""])
def test_another_norm_is_refused(use: Callable[[Tensor, str], Tensor], norm: str) -> None:
    with pytest.raises(ValueError, match=f"^norm = {norm!r}: it must be 'linf' or 'l2'"):
        use(noise(1.0), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_arithmetic_is_float32_whatever_a_model_computed_in(norm: str) -> None:
    half = noise(1.0).bfloat16()
    assert project_ball(half, norm, 0.1).dtype == torch.float32
    assert project_ball(half.double(), norm, 0.1).dtype == torch.float64
