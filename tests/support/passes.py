"""A network that keeps what it was asked, and batches of which some examples are attacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparring.objectives import Batch

CLASSES = 4
ALL, SOME, NONE = [True] * 6, [True, False, True, True, False, False], [False] * 6
ONE = [False] * 5 + [True]


class Counting(nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.norm = nn.BatchNorm1d(3) if batch_norm else nn.Identity()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        logits: Tensor = self.linear(self.norm(x).tanh())
        return logits


def network(batch_norm: bool = False) -> Counting:
    torch.manual_seed(7)
    return Counting(batch_norm).double().train()


def batch_where(attacked: Sequence[bool], weights: Tensor | None = None) -> Batch:
    """float64 x and x_adv [N, 3], and labels; x_adv lies elsewhere than x only where attacked."""
    random = torch.Generator().manual_seed(11)
    mask = torch.tensor(attacked)
    x = torch.randn(len(attacked), 3, generator=random, dtype=torch.float64)
    shift = 1 + torch.randn(len(attacked), 3, generator=random, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (len(attacked),), generator=random)
    return Batch(x, x + shift * mask[:, None], labels, weights)
