"""Alone, a learner's pass is its own, and so are the totals."""

from __future__ import annotations

import torch

from sparring.trainer.peers import Alone, Totals


def test_alone_everything_is_ones_own() -> None:
    loss, correct = torch.tensor(2.5, requires_grad=True), torch.tensor([True, False, True])
    passed = Alone().forward(lambda: (loss, correct))
    assert passed[0] is loss and passed[1] is correct and Alone().share == 1.0
    assert Alone().totals(*passed) == Totals(2.5, 2, 3)
