"""Learning rate and ε as pure functions of how far training is."""

from __future__ import annotations

from math import cos, pi

from sparring.config import ScheduleSettings


def learning_rate(settings: ScheduleSettings, peak: float, progress: float) -> float:
    """The rate at `progress` in [0, 1] (steps made over all steps).

    cyclic is Wong et al.'s: linear from 0 to the peak and linear back to 0. one_cycle is Smith's with cosine
    annealing (from peak/25, to peak/250000), as in torch.optim.lr_scheduler.OneCycleLR.
    """
    if settings.name == "constant":
        return peak
    if settings.name == "piecewise":
        passed = sum(progress >= milestone for milestone in settings.milestones)
        return float(peak * settings.factor**passed)
    if settings.name == "cosine":
        return _cosine(peak, 0.0, progress)
    rising = progress < settings.peak_at
    share = progress / settings.peak_at if rising else (progress - settings.peak_at) / (1 - settings.peak_at)
    if settings.name == "cyclic":
        return peak * share if rising else peak * (1 - share)
    return _cosine(peak / 25, peak, share) if rising else _cosine(peak, peak / 250_000, share)


def warmed_up(epsilon: float, step: int, warmup_steps: float) -> float:
    """ε at step `step`: linear from ε/warmup to ε over `warmup_steps` steps."""
    return epsilon * min(1.0, (step + 1) / max(warmup_steps, 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2
