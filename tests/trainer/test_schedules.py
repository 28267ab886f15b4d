"""The learning rate over a run, against torch's own schedulers and the papers' shapes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sparring.config import ScheduleSettings
from sparring.trainer.schedules import learning_rate, warmed_up

PEAK = 0.3
STEPS = 41


def rates(steps: int = STEPS, **settings: object) -> list[float]:
    schedule = ScheduleSettings.model_validate(settings)
    return [learning_rate(schedule, PEAK, step / (steps - 1)) for step in range(steps)]


def torch_rates(scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer) -> list[float]:
    seen = [float(optimizer.param_groups[0]["lr"])]
    while len(seen) < STEPS:
        optimizer.step()
        scheduler.step()
        seen.append(float(optimizer.param_groups[0]["lr"]))
    return seen


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)


@pytest.mark.parametrize("peak_step", [1, 8, 16, 20, 39])
def test_one_cycle_is_torchs(peak_step: int) -> None:
    # torch counts its peak as the step pct_start * total_steps - 1, of total_steps - 1 in all.
    made = optimizer()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        made, PEAK, total_steps=STEPS, pct_start=(peak_step + 1) / STEPS, div_factor=25, final_div_factor=1e4
    )
    ours = rates(name="one_cycle", peak_at=peak_step / (STEPS - 1))
    assert ours == pytest.approx(torch_rates(scheduler, made), rel=1e-9)
    assert (ours[0], ours[peak_step], ours[-1]) == pytest.approx((PEAK / 25, PEAK, PEAK / 250_000))


def test_cosine_is_torchs() -> None:
    made = optimizer()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, STEPS - 1)
    assert rates(name="cosine") == pytest.approx(torch_rates(scheduler, made), abs=1e-12)


@pytest.mark.parametrize("peak_at", [0.25, 0.4, 0.5, 0.75])
def test_cyclic_goes_straight_up_to_the_peak_and_straight_down_to_0(peak_at: float) -> None:
    made = rates(name="cyclic", peak_at=peak_at)
    highest = round(peak_at * (STEPS - 1))
    assert made[0] == 0 and made[highest] == PEAK and made[-1] == pytest.approx(0, abs=1e-15)
    for part in (made[: highest + 1], made[highest:]):
        steps = [later - before for before, later in pairwise(part)]
        assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(
    ("progress", "passed"), [(0, 0), (0.4999, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.999, 2), (1, 2)]
)
def test_piecewise_lowers_the_rate_at_each_milestone(progress: float, passed: int) -> None:
    settings = ScheduleSettings(name="piecewise", milestones=(0.5, 0.75), factor=0.1)
    assert learning_rate(settings, PEAK, progress) == pytest.approx(PEAK * 0.1**passed)


def test_constant_is_constant() -> None:
    assert set(rates(name="constant")) == {PEAK}


@pytest.mark.parametrize("name", ["constant", "piecewise", "cyclic", "one_cycle", "cosine"])
def test_no_schedule_leaves_0_to_the_peak(name: str) -> None:
    made = rates(name=name)
    assert all(math.isfinite(rate) and -1e-15 <= rate <= PEAK + 1e-15 for rate in made)
    assert max(made) == pytest.approx(PEAK)


def test_epsilon_warms_up_linearly_to_its_full_size() -> None:
    assert math.isclose(warmed_up(0.3, 0, 10), 0.03)
    assert math.isclose(warmed_up(0.3, 4, 10), 0.15)
    assert warmed_up(0.3, 9, 10) == warmed_up(0.3, 1000, 10) == 0.3
    assert warmed_up(0.3, 0, 0) == 0.3
