"""In this process tickets are done in order, on the examples at their places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.config import DataSettings
from sparring.data import Sample, load
from sparring.evaluation.tickets import InProcess, Ticket, examples_at, sizes


class Silent:
    """Nobody listens."""

    def within(self, sentence: str) -> None: ...

    def working(self, workers: int, deaths: int) -> None: ...


def labels(models: object, x: Tensor, y: Tensor, progress: object) -> tuple[list[int], float]:
    return y.tolist(), float(x.sum())


def test_work_is_done_on_the_examples_at_the_places() -> None:
    sample = Sample(load(DataSettings(), "test"), 20)
    tickets = [Ticket(0, (3, 5), labels), Ticket(1, (0,), labels)]
    done = list(InProcess([nn.Linear(1, 1)]).results(sample, iter(tickets), Silent()))
    assert [ticket for ticket, _ in done] == tickets
    x, y = examples_at(sample, (3, 5))
    assert x.dtype == torch.float32 and float(x.max()) <= 1 and done[0][1] == (y.tolist(), float(x.sum()))
    assert sample.labels[[3, 5]].tolist() == y.tolist()


def test_tickets_become_smaller_so_that_all_workers_end_together() -> None:
    assert sizes(100, 30) == [30, 30, 30, 10]
    found = sizes(1000, 100, 4)
    assert sum(found) == 1000 and found[0] == 100 and found == sorted(found, reverse=True) and found[-2] == 8
    free = [0.0] * 4
    for size in found:  # each worker takes the next one when it is done
        free[free.index(min(free))] += size
    assert max(free) < 1.02 * 250
