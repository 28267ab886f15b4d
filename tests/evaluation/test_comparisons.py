"""Who survives which attack: a warning where a stronger one leaves more standing, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparring.evaluation.comparisons import masked, pairs, unbounded_warning


def bools(*counts: tuple[int, bool]) -> Tensor:
    return torch.cat([torch.full((count,), value) for count, value in counts])


@pytest.mark.parametrize(("excess", "warns"), [(6, False), (7, True)])
def test_it_warns_from_the_excess_that_chance_does_not_explain(excess: int, warns: bool) -> None:
    """2^-6 > 0.01 > 2^-7, one pair."""
    weak, strong = bools((excess, False), (50, True)), bools((excess, True), (50, True))
    said = masked([("PGD-1", weak), ("PGD-5", strong)])
    assert bool(said) is warns
    if said:
        assert "PGD-5 leaves 100.0 % correct, PGD-1 only 87.7 %: 7 examples survive only the first" in said[0]


def test_the_level_is_shared_among_the_pairs() -> None:
    weak, strong = bools((7, False), (50, True)), bools((57, True))
    assert masked([("a", weak), ("b", strong)]) and not masked([("a", weak), ("b", weak), ("c", strong)])


def test_a_weaker_attack_may_leave_as_much_more_as_it_likes() -> None:
    assert masked([("weak", bools((90, True), (1, False))), ("strong", bools((91, False)))]) == []


@pytest.mark.parametrize(("left", "warns"), [(0, False), (3, False), (6, True)])
def test_an_attack_without_limits_must_leave_next_to_nothing(left: int, warns: bool) -> None:
    assert bool(unbounded_warning(bools((left, True), (200 - left, False)), 1.0)) is warns


def test_a_pair_names_both_attacks_and_counts_who_survives_only_one() -> None:
    first, second, third = bools((4, True)), bools((1, False), (3, True)), bools((3, True), (1, False))
    found = pairs([("a", first), ("b", second), ("c", third)])
    assert [(each.weak, each.strong) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found[2][3:] == (1, 1, 3, 3, 4) and found[0].p_value == 1.0
