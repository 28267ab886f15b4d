"""A network for runs that go on until their test ends them: its passes rest, and leave the cores to other tests."""

from __future__ import annotations

import time

from torch import Tensor, nn

REST_S = 0.03
NAME = "tests.support.resting:Resting"


class Resting(nn.Module):
    """Linear; a pass with gradients takes REST_S of the clock and next to nothing of a core."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad or self.training:
            time.sleep(REST_S)  # what it is for
        logits: Tensor = self.layers(x)
        return logits
