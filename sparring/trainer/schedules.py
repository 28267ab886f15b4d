"""Learning rate and ε as pure functions of the progress of training.

A schedule is named by a factory, which its settings and options are given to once. What it returns is called as
(peak rate, progress in [0, 1]) at every step, and gives the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, isfinite, pi

import numpy as np

from sparring import plugins
from sparring.config import ScheduleSettings
from sparring.errors import UsageError

Schedule = Callable[[float, float], float]

SCHEDULES = {
    "constant": "sparring.trainer.schedules:constant",
    "piecewise": "sparring.trainer.schedules:piecewise",
    "cyclic": "sparring.trainer.schedules:cyclic",
    "one_cycle": "sparring.trainer.schedules:one_cycle",
    "cosine": "sparring.trainer.schedules:cosine",
    "linear": "sparring.trainer.schedules:linear",
}
PROBED = tuple(percent / 100 for percent in range(101))
ROUNDING = 1e-12  # relative to the peak: a rate that falls to 0 may end just below it


def learning_rate(settings: ScheduleSettings, peak: float) -> Callable[[float], float]:
    """The rate by progress (steps made over all steps), for a schedule that reaches `peak`.

    Raises:
        UsageError: there is no such schedule, its options do not fit, or a rate is negative or not finite; the rates at
            some points are checked here, the others when the rate is used.
    """
    given = {"peak_at": settings.peak_at, "milestones": settings.milestones, "factor": settings.factor}
    found = plugins.resolve("schedule.name", settings.name, SCHEDULES)
    schedule = plugins.call("schedule.name", found, given, settings.options)  # type: ignore[arg-type]
    setting = f"schedule.name = {settings.name!r}"
    if not callable(schedule):
        raise UsageError(f"{setting} made a {type(schedule).__name__}; a function of (peak, progress) is needed.")

    def rate(progress: float) -> float:
        return _checked(setting, peak, progress, schedule(peak, progress))

    for progress in PROBED:
        try:
            rate(progress)
        except UsageError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(
                f"{setting} fails at progress {progress:g} ({plugins.described(error)}). It is called with the "
                f"peak rate and the share of training done."
            ) from error
    return rate


def constant() -> Schedule:
    """The peak throughout."""
    return lambda peak, progress: peak


def piecewise(milestones: Sequence[float], factor: float) -> Schedule:
    """Multiplied by `factor` at each of `milestones`, shares of training."""

    def rate(peak: float, progress: float) -> float:
        passed = sum(progress >= milestone for milestone in milestones)
        return float(peak * factor**passed)

    return rate


def cyclic(peak_at: float) -> Schedule:
    """Wong et al.'s: linear from 0 to the peak and linear back to 0."""

    def rate(peak: float, progress: float) -> float:
        rising, share = _part(progress, peak_at)
        return peak * share if rising else peak * (1 - share)

    return rate


def one_cycle(peak_at: float) -> Schedule:
    """Smith's with cosine annealing, from peak/25 and to peak/250000, as in torch.optim.lr_scheduler.OneCycleLR."""

    def rate(peak: float, progress: float) -> float:
        rising, share = _part(progress, peak_at)
        return _cosine(peak / 25, peak, share) if rising else _cosine(peak, peak / 250_000, share)

    return rate


def cosine() -> Schedule:
    """From the peak down to 0."""
    return lambda peak, progress: _cosine(peak, 0.0, progress)


def linear(points: Sequence[Sequence[float]]) -> Schedule:
    """Straight lines through points (share of training, share of the peak), as in Wong et al.'s phases on ImageNet.

    Raises:
        UsageError: the shares of training do not rise from 0 to 1, or a share of the peak is outside [0, 1].
    """
    if not _are_pairs(points):
        raise UsageError(
            f"schedule.options.points = {points!r}: pairs [share of training, share of the peak] are needed."
        )
    times, shares = ([float(each[place]) for each in points] for place in (0, 1))
    if len(times) < 2 or times[0] != 0 or times[-1] != 1 or any(one >= two for one, two in pairwise(times)):
        raise UsageError(f"schedule.options.points = {points!r}: the first of each pair must rise from 0 to 1.")
    if any(not 0 <= share <= 1 for share in shares):
        raise UsageError(f"schedule.options.points = {points!r}: the second of each pair must be in [0, 1].")
    return lambda peak, progress: peak * float(np.interp(progress, times, shares))


def _are_pairs(points: object) -> bool:
    return isinstance(points, (list, tuple)) and all(
        isinstance(each, (list, tuple)) and len(each) == 2 and all(isinstance(value, (int, float)) for value in each)
        for each in points
    )


def _part(progress: float, peak_at: float) -> tuple[bool, float]:
    """Whether the rate rises, and how much of that part has passed."""
    if progress < peak_at:
        return True, progress / peak_at
    return False, (progress - peak_at) / (1 - peak_at)


def warmed_up(epsilon: float, step: int, warmup_steps: float) -> float:
    """ε at step `step`: linear from ε/warmup to ε over `warmup_steps` steps."""
    return epsilon * min(1.0, (step + 1) / max(warmup_steps, 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2


def _checked(setting: str, peak: float, progress: float, rate: object) -> float:
    if not isinstance(rate, (int, float)) or not isfinite(rate) or rate < -ROUNDING * peak:
        raise UsageError(
            f"{setting} gives {rate!r} at progress {progress:g} with a peak of {peak:g}; a finite rate of at least 0 "
            f"is needed."
        )
    return rate
