"""Times of things done in turn, and the machine that they were done on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from sparring.engines.threads import cores


def machine() -> str:
    """What a figure is worth nothing without."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return (
        f"python {platform.python_version()}, torch {torch.__version__}, {device}, {platform.machine()}, "
        f"{cores()} cores, load {os.getloadavg()[0]:.1f} before"
    )


def in_turn(works: Mapping[str, Callable[[], object]], repetitions: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each work in every repetition; all are done in turn, so that what disturbs one disturbs all."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm_up, repetitions):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
            if turn >= 0:
                took[name].append(seconds)
    return took


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the least and greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def header(*names: str) -> str:
    return f"{row(*names)}\n{row(*['---'] * len(names))}"
