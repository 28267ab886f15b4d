"""The learning rate over a run, against torch's own schedulers and the papers' shapes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.config import ScheduleSettings
from sparring.errors import UsageError
from sparring.trainer.schedules import learning_rate, warmed_up

PEAK = 0.3
STEPS = 41


def rates(steps: int = STEPS, **settings: object) -> list[float]:
    rate = learning_rate(ScheduleSettings.model_validate(settings), PEAK)
    return [rate(step / (steps - 1)) for step in range(steps)]


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
    assert learning_rate(settings, PEAK)(progress) == pytest.approx(PEAK * 0.1**passed)


def test_constant_is_constant() -> None:
    assert set(rates(name="constant")) == {PEAK}


@pytest.mark.parametrize("name", ["constant", "piecewise", "cyclic", "one_cycle", "cosine"])
def test_no_schedule_leaves_0_to_the_peak(name: str) -> None:
    made = rates(name=name)
    assert all(math.isfinite(rate) and -1e-15 <= rate <= PEAK + 1e-15 for rate in made)
    assert max(made) == pytest.approx(PEAK)


OWN = """
from functools import partial

def warm(until, peak_at):
    return lambda peak, progress: peak * min(1.0, progress / until) * (1 if progress < peak_at else 0.5)

def never():
    return 3

def made_of(value, after=0.0):
    return lambda peak, progress: float(value) if progress >= after else peak

def fails():
    return lambda peak: peak

def late():
    return lambda peak, progress: float("nan") if progress == 0.3004 else peak
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "rates.py").write_text(OWN)
    return f"{tmp_path}/rates.py"


def test_a_schedule_of_ones_own_takes_options_and_the_settings_that_it_names(own: str) -> None:
    made = rates(5, name=f"{own}:warm", options={"until": 0.5}, peak_at=0.75)
    assert made == pytest.approx([0, PEAK / 2, PEAK, PEAK / 2, PEAK / 2])


@pytest.mark.parametrize(
    ("name", "options", "reported"),
    [
        ("one-cycle", {}, "schedule.name = 'one-cycle': no such name; the nearest is one_cycle. Built in: constant, "),
        ("constant", {"until": 1}, "schedule.options.until = 1: no such option; constant takes no options"),
        ("{own}:warm", {}, "schedule.options.until is missing. Set it; warm takes until"),
        ("{own}:never", {}, "made a int; a function of (peak, progress) is needed"),
        ("{own}:made_of", {"value": -1}, "gives -1.0 at progress 0 with a peak of 0.3; a finite rate of at least 0"),
        ("{own}:made_of", {"value": "inf", "after": 0.6}, "gives inf at progress 0.6 "),
        ("{own}:fails", {}, "fails at progress 0 (TypeError: "),
    ],
)
def test_what_is_no_schedule_is_refused_at_once(own: str, name: str, options: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError) as raised:
        rates(name=name.format(own=own), options=options)
    assert reported in str(raised.value)


def test_a_rate_that_is_no_number_is_refused_when_it_comes(own: str) -> None:
    rate = learning_rate(ScheduleSettings(name=f"{own}:late"), PEAK)
    assert rate(0.2) == PEAK
    with pytest.raises(UsageError, match=r"gives nan at progress 0\.3004"):
        rate(0.3004)


def test_epsilon_warms_up_linearly_to_its_full_size() -> None:
    assert math.isclose(warmed_up(0.3, 0, 10), 0.03)
    assert math.isclose(warmed_up(0.3, 4, 10), 0.15)
    assert warmed_up(0.3, 9, 10) == warmed_up(0.3, 1000, 10) == 0.3
    assert warmed_up(0.3, 0, 0) == 0.3


def test_linear_is_the_rate_of_wong_et_al_on_imagenet() -> None:
    # Their three phases of 6, 6 and 3 epochs: up in the first epoch, then down to a tenth by the end of each phase.
    points = [[0, 0], [1 / 15, 1], [6 / 15, 0.1], [12 / 15, 0.01], [1, 0.001]]
    made = rates(16, name="linear", options={"points": points})
    down = [1 - 0.9 * epoch / 5 for epoch in range(6)]
    further = [0.1 - 0.09 * epoch / 6 for epoch in range(1, 7)] + [0.01 - 0.009 * epoch / 3 for epoch in range(1, 4)]
    assert made == pytest.approx([PEAK * share for share in (0, *down, *further)])


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([[0, 0]], "must rise from 0 to 1"),
        ([[0, 0], [0.9, 1]], "must rise from 0 to 1"),
        ([[0, 0], [0.5, 1], [0.5, 0.5], [1, 0]], "must rise from 0 to 1"),
        ([[0, 0], [1, 2]], r"must be in \[0, 1\]"),
        ([0, 1], "pairs"),
        ("steep", "pairs"),
    ],
)
def test_points_that_are_no_line_are_refused(points: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        rates(name="linear", options={"points": points})


def test_linear_without_points_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="points"):
        rates(name="linear")
