"""A network whose passes take as long as it is set to, as on a GPU of its own; everything around them is real.

    --model.name benchmarks.waiting:wait_9600_8400      microseconds: an attack step, a training step, of BATCH examples

Its weights weigh as much as ResNet-18's, 11 M numbers, and travel in every snapshot. They are buffers: what the
optimizer would do to them is the GPU's work, and so part of the wait. Waits vary by JITTER, or equal workers would
march in step. What else may differ comes by the environment, since it reaches every process of a run:

    WAITING_JITTER=0.5        each wait is drawn from its mean less and more this share
    WAITING_CONSTANT=0.8      this share of the wait for BATCH examples does not depend on how many they are
    WAITING_COUNTS=.28:10,.54:2,.18:0    an attack's wait is for BATCH examples of 10 steps; of those that come, each
                              draws its own number of steps at these shares, as BulletTrain gives them out
    WAITING_NUMBERS=60        so many weights
    WAITING_SLOW=FOLDER       the processes whose ids are files in this folder wait SLOWER times as long
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

BATCH = 128
JITTER = float(os.environ.get("WAITING_JITTER", "0.05"))
CONSTANT = float(os.environ.get("WAITING_CONSTANT", "0"))
DRAWN = [each.split(":") for each in os.environ.get("WAITING_COUNTS", "1:1").split(",")]
SHARES, COUNTS = [float(share) for share, _ in DRAWN], [int(count) for _, count in DRAWN]
SLOW, SLOWER = os.environ.get("WAITING_SLOW"), 3.0
TENSORS, NUMBERS = 60, int(os.environ.get("WAITING_NUMBERS", "11_000_000"))
NAME = re.compile(r"wait_(\d+)_(\d+)")


class Waiting(nn.Module):
    """Logits of an image are its first pixels: cheap, and their gradient by the image is not 0."""

    def __init__(self, classes: int, attack_step_s: float, step_s: float) -> None:
        super().__init__()
        self.attack_step_s, self.step_s, self.classes = attack_step_s, step_s, classes
        self.scale = nn.Parameter(torch.ones(classes))
        for number in range(TENSORS):
            self.register_buffer(f"weights{number}", torch.zeros(NUMBERS // TENSORS))

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W]. A pass without gradients (the check when it is built) does not wait."""
        if torch.is_grad_enabled():
            whole_s = self.step_s if self.training else self.attack_step_s * spent(len(x))
            share = CONSTANT + (1 - CONSTANT) * len(x) / BATCH
            time.sleep(whole_s * share * random.uniform(1 - JITTER, 1 + JITTER) * slowness())
        logits: Tensor = x.flatten(1)[:, : self.classes] * self.scale
        return logits


def spent(examples: int) -> float:
    """The share of a full attack's steps that these examples drew."""
    return sum(random.choices(COUNTS, SHARES, k=examples)) / (examples * max(COUNTS))


def slowness() -> float:
    """How many times as long as others this process waits."""
    return SLOWER if SLOW is not None and (Path(SLOW) / str(os.getpid())).exists() else 1.0


def __getattr__(name: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    found = NAME.fullmatch(name)
    if found is None:
        raise AttributeError(f"{name}: it is called wait_ATTACK_STEP, both in microseconds")
    attack_step_s, step_s = (int(digits) / 1e6 for digits in found.groups())
    return lambda shape, classes: Waiting(classes, attack_step_s, step_s)
