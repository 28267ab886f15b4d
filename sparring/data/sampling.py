"""A sample of a dataset in which every class has its share.

Of data that are sorted by class the first examples are all of one.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from sparring.data.datasets import Dataset, Subset

Draw = Literal["stratified", "first"]
SEED = 0  # the same in every run, so that runs are compared on the same examples


class Sample(Subset):
    """`samples` examples of a dataset, in their order there; all of them by default, or where there are not so many.

    Args:
        draw: see `evaluation.draw`.
    """

    def __init__(self, dataset: Dataset, samples: int | None, draw: Draw = "stratified") -> None:
        total = len(dataset)
        count = total if samples is None else min(samples, total)
        indices = stratified(dataset.labels, count) if draw == "stratified" else torch.arange(count)
        super().__init__(dataset, indices)
        self.rule = _rule(draw, total) if count < total else _all(samples, total)

    def some(self, places: Tensor) -> Sample:
        """Those at these places, which were taken in random order until there were enough."""
        found = copy.copy(self)
        Subset.__init__(found, self.dataset, self.indices[places])
        found.rule = f"the first {len(places)} of {len(self)} in random order, {self.rule}"
        return found

    @property
    def warnings(self) -> list[str]:
        """That classes of the data are missing from the sample."""
        present = int(torch.bincount(self.labels).count_nonzero())
        if present == self.classes:
            return []
        return [
            f"The {len(self)} examples hold {present} of {self.classes} classes: the figure says nothing of the others."
        ]


def stratified(labels: Tensor, count: int, seed: int = SEED) -> Tensor:
    """Positions of `count` examples, int64 [count], rising: each class has the same share of them as of all.

    The seats of a parliament are shared out like this (Sainte-Laguë): example r of the n of a class, in random order,
    has the rank (2r + 1) / 2n, and the lowest ranks are taken. A larger sample contains a smaller one.

    Args:
        labels: int64 [N].
    """
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=random)
    order = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    within = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ranks = (2 * within + 1).double() / (2 * sizes).repeat_interleave(sizes)
    mixed = torch.randperm(len(labels), generator=random)  # of equal ranks each class must have its chance
    return order[mixed[ranks[mixed].argsort(stable=True)]][:count].sort().values


def _all(samples: int | None, total: int) -> str:
    return "all" if samples is None or samples == total else f"all {total}: there are no {samples}"


def _rule(draw: Draw, total: int) -> str:
    if draw == "first":
        return f"the first of {total}"
    return f"drawn from {total} with seed {SEED}, each class in its share"
