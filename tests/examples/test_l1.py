"""The L1 attack as an example: the projection that Croce & Hein describe, and a norm that the core does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import L1_projection
from scipy.optimize import minimize
from torch import Tensor, nn

from examples.l1 import L1
from sparring.errors import UsageError
from tests.support.examples import ROOT, run_command_of
from tests.support.own_methods import assert_workers_use_it, example, perturbations, trained
from tests.support.runs import Place

NAMED = {"name": example("l1.py:L1"), "epsilon": 3.0}


def batch(seed: int, count: int, spread: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 3, 4], some of their pixels black or white, and perturbations that leave ball and box."""
    random = torch.Generator().manual_seed(seed)
    x = (2 * torch.rand(count, 1, 3, 4, generator=random, dtype=dtype) - 0.5).clamp(0, 1)
    return x, spread * torch.randn(x.shape, generator=random, dtype=dtype)


def nearest_by_slsqp(delta: Tensor, x: Tensor, radius: float) -> Tensor:
    """The nearest point by a general solver: δ = a − b with a, b ≥ 0, so that Σ(a + b) ≤ radius is linear."""
    goal, image = delta.flatten().numpy(), x.flatten().numpy()
    size = len(goal)
    solved = minimize(
        lambda parts: float(((parts[:size] - parts[size:] - goal) ** 2).sum()),
        np.zeros(2 * size),
        jac=lambda parts: np.tile(2 * (parts[:size] - parts[size:] - goal), 2) * np.repeat([1, -1], size),
        bounds=[*((0.0, 1 - value) for value in image), *((0.0, value) for value in image)],
        constraints={
            "type": "ineq",
            "fun": lambda parts: radius - parts.sum(),
            "jac": lambda parts: -np.ones(2 * size),
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success, solved.message
    return torch.from_numpy(solved.x[:size] - solved.x[size:]).view_as(delta)


@pytest.mark.parametrize("radius", [0.05, 0.7, 2.0, 20.0])
def test_the_projection_is_the_nearest_point_of_ball_and_box(radius: float) -> None:
    x, delta = batch(0, 8, spread=0.6)
    projected = L1(radius).project(delta, x, radius)
    for found, start, image in zip(projected, delta, x, strict=True):
        assert torch.allclose(found, nearest_by_slsqp(start, image, radius), atol=2e-6, rtol=0)


@pytest.mark.parametrize("radius", [0.01, 0.7, 3.0, 20.0])
@pytest.mark.parametrize("spread", [0.001, 0.1, 5.0])
def test_the_projection_is_inside_both_and_as_near_as_that_of_the_authors(radius: float, spread: float) -> None:
    x, delta = batch(1, 300, spread, torch.float32)
    projected = L1(radius).project(delta, x, radius)
    assert float(projected.abs().sum((1, 2, 3)).max()) <= radius * (1 + 1e-6) + 1e-6
    assert float((x + projected).min()) >= 0 and float((x + projected).max()) <= 1
    theirs = delta + L1_projection(x, delta, radius)
    ours_moved, theirs_moved = ((found - delta).flatten(1).norm(dim=1) for found in (projected, theirs))
    assert float((ours_moved - theirs_moved).max()) <= 1e-5
    same = torch.isclose(projected, theirs, atol=2e-5, rtol=0).flatten(1).all(1)
    assert float(same.float().mean()) > 0.99, "in float32 theirs is a little too short where pixels tie"


def test_what_is_inside_stays_and_every_example_has_its_own_radius() -> None:
    x, delta = batch(2, 40, spread=0.3)
    attack, radii = L1(1.0), torch.linspace(0.1, 4, 40, dtype=torch.float64)
    projected = attack.project(delta, x, radii)
    assert torch.allclose(attack.project(projected, x, radii), projected, atol=1e-9, rtol=0)
    for number, radius in enumerate(radii.tolist()):
        one = slice(number, number + 1)
        assert torch.allclose(projected[one], attack.project(delta[one], x[one], radius), atol=1e-9, rtol=0)


def test_a_step_goes_up_the_largest_share_of_the_gradient_for_its_whole_length() -> None:
    _, gradient = batch(3, 20, spread=1.0)
    sizes = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    stepped = L1(1.0, share=0.25).step(torch.zeros_like(gradient), gradient, sizes, {})
    for step, slope, size in zip(stepped.flatten(1).numpy(), gradient.flatten(1).numpy(), sizes.tolist(), strict=True):
        largest = np.argsort(-np.abs(slope))[:3]
        expected = np.zeros(12)
        expected[largest] = size / 3 * np.sign(slope[largest])
        assert np.allclose(step, expected, atol=1e-12, rtol=0)


def test_it_stays_inside_and_raises_the_loss_more_than_its_start_does() -> None:
    x, _ = batch(4, 50, spread=1.0, dtype=torch.float32)
    y = torch.arange(50) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    losses = []
    for step_size in (1e-9, 0.5):
        attack, random = L1(1.5, steps=10, step_size=step_size), torch.Generator().manual_seed(0)
        delta = attack(model, x, y, generator=random, return_delta=True)
        assert float(delta.abs().sum((1, 2, 3)).max()) <= 1.5 * (1 + 1e-6)
        losses.append(F.cross_entropy(model(x + delta), y, reduction="none").detach())
    assert float((losses[1] > losses[0]).float().mean()) > 0.95


@pytest.mark.parametrize("allocator", ["none", "bullettrain"])
def test_slots_make_the_same_perturbations(allocator: str) -> None:
    alone, in_slots = (perturbations(L1(3.0, steps=4), slots, allocator) for slots in (0, 16))
    assert torch.allclose(alone, in_slots, atol=1e-6, rtol=0)


def test_a_run_is_evaluated_in_its_own_ball_by_the_attack_itself(tmp_path: Path) -> None:
    described = trained(tmp_path, "sync", attack=NAMED).summary["attack"]
    assert described == "L1-2, 1 restart, step 3.75, l1 3"


@pytest.mark.ray
def test_its_perturbations_travel_from_the_workers(tmp_path: Path, shared_ray: Place) -> None:
    assert_workers_use_it(tmp_path, shared_ray, attack=NAMED)


def test_another_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"attack\.norm = 'l2' with attack\.name = '.*l1\.py:L1', which takes no norm"):
        trained(tmp_path, "sync", attack={**NAMED, "norm": "l2"})


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "l1.py", tmp_path).summary["steps"] == 2
