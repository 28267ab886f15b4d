"""Warm starts: perturbations of an earlier attack as starting points, as tensors and encoded (int8 of radius/127)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.errors import SparringError

Rows = tuple[bytes | None, ...]  # encoded perturbation of each example; None if it has none yet


class WarmStart(NamedTuple):
    """Starting points of a ticket's attack.

    delta: float32 [N, C, H, W]; known: bool [N], the examples that have a warm start. The others use the attack's own
    start.
    """

    delta: Tensor
    known: Tensor


def packed(delta: Tensor, radius: float) -> Tensor:
    """Encode L∞ perturbations (float32, inside their ball) as int8 [N, C, H, W], in units of radius/127."""
    return (delta * (127 / radius)).round().clamp(-127, 127).to(torch.int8)


def unpacked(rows: Rows, shape: Sequence[int], radius: float) -> WarmStart | None:
    """Decode the rows, scaled to the current `radius`; None if there are no rows.

    Raises:
        SparringError: a row is not of `shape` [C, H, W].
    """
    if not rows:
        return None
    wrong = [len(row) for row in rows if row is not None and len(row) != prod(shape)]
    if wrong:
        raise SparringError(
            f"attack.start = 'last': a ticket has a perturbation of {wrong[0]} bytes for images of {tuple(shape)}. "
            f"Give all hosts the same data and the same version of sparring."
        )
    blank = bytes(prod(shape))
    joined = bytearray().join(blank if row is None else row for row in rows)
    steps = torch.frombuffer(joined, dtype=torch.int8).view(len(rows), *shape)
    return WarmStart(steps * (radius / 127), torch.tensor([row is not None for row in rows]))
