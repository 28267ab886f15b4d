"""Allocators: how attack steps are divided among the examples."""

from sparring.allocators.allocator import (
    Allocation,
    Allocator,
    Budget,
    Candidates,
    augmix_speedup,
    mean_steps,
    speedup_ceiling,
    theoretical_speedup,
)
from sparring.attacks.augmix import Threat

__all__ = [
    "Allocation",
    "Allocator",
    "Budget",
    "Candidates",
    "Threat",
    "augmix_speedup",
    "mean_steps",
    "speedup_ceiling",
    "theoretical_speedup",
]
