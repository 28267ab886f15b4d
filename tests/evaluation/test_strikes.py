"""A ticket's attacks come one after the other, and each gets what those before it have left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparring.evaluation.panels import Progress, Struck
from sparring.evaluation.strikes import Look, Strike
from tests.support.judged import network


class ByBrightness:
    """Attack `k` breaks what is darker than k tenths."""

    regroups, by_loss, names, description = False, True, ("1", "2", "3"), "by brightness"
    of_one_pass, doubtful, complete = False, None, False
    identity: ClassVar[dict[str, Any]] = {}

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        return []

    def strike(
        self, name: str, model: nn.Module, x: Tensor, y: Tensor, first: int, progress: Progress | None
    ) -> Struck:
        level, none = x.flatten(1)[:, 0], torch.zeros_like(y, dtype=torch.bool)
        correct = level >= int(name) / 10
        return Struck(
            correct, x + int(name), level, torch.full_like(y, 5), ~correct, none, none, (f"warned by {name}",)
        )


def test_each_attack_gets_what_is_left() -> None:
    x = torch.tensor([0.05, 0.15, 0.95]).reshape(3, 1, 1, 1)
    strike = Strike(ByBrightness(), ("1", "2"), ("0",), (70, 71, 72), 0, keep_images=True)
    blow = strike([nn.Identity()], x, torch.zeros(3).long(), None)
    first, second = blow.entries
    assert (first.attack, first.after, first.examples) == ("1", ("0",), (70, 71, 72))
    assert (second.attack, second.after, second.examples) == ("2", ("0", "1"), (71, 72))
    assert [(each.broken_by, each.queries, each.flags) for each in first.verdicts] == [
        ("1", 5, ("zero_gradient",)),
        (None, 5, ()),
        (None, 5, ()),
    ]
    assert [each.broken_by for each in second.verdicts] == ["2", None]
    assert blow.images is not None and (blow.images - x).flatten().round().tolist() == [1, 2, 2]
    assert first.warnings == ("warned by 1",) and second.warnings == ("warned by 2",)


def test_a_look_says_what_is_right_without_an_attack() -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = network()(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    found = Look(twice=True)([network()], x, y, None)
    assert found.clean.tolist() == [False] + [True] * 5 and not found.varies.any()
    assert Look(twice=True)([nn.Sequential(nn.Dropout(), network())], x, y, None).varies.tolist() == [False] * 6
