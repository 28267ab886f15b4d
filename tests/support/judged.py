"""A small network that is a little robust, and what judges it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sparring.attacks import PGD
from sparring.config import DataSettings
from sparring.data import Dataset, Sample, batch, load
from sparring.evaluation.tickets import Events, InProcess, Ticket

EPSILON = 0.08
PGD_3 = PGD(EPSILON, steps=5, restarts=3)


@cache
def network() -> nn.Module:
    """Of the digits, trained with noise; about two thirds of what it has right is robust."""
    training = load(DataSettings(), "train")
    x, y = batch(training, torch.arange(len(training)), augment="none", seed=0, epoch=0)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            loss = F.cross_entropy(model((x + 0.1 * torch.randn_like(x).sign()).clamp(0, 1)), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def examples(count: int | None = 120) -> Sample:
    return Sample(load(DataSettings(), "test"), count)


class Backwards(InProcess):
    """Workers that are done in another order. After `most` tickets they end as if they were killed."""

    def __init__(self, models: Sequence[nn.Module], most: int = 1000) -> None:
        super().__init__(models)
        self.left = most

    def results(self, examples: Dataset, tickets: Iterable[Ticket], events: Events) -> Iterator[tuple[Ticket, Any]]:
        for done in super().results(examples, list(tickets)[::-1], events):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield done
