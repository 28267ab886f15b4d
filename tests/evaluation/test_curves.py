"""Robust accuracy against ε and steps: a warning where a stronger attack leaves more standing, and only there."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.config import EvaluationSettings
from sparring.evaluation.curves import EPSILONS, STEPS, Curves, curves, masked, sign_test, unbounded_warning
from sparring.evaluation.robustness import interval
from tests.support.models import Brightness, Shattered, distances, greys

MARGINS = torch.linspace(0.03, 0.41, 20).repeat(3)  # none lies on a ball of the grid


def evaluated(model: nn.Module, queries: int = 0, margins: Tensor = MARGINS) -> Curves:
    settings = EvaluationSettings(steps=5, restarts=1, square_queries=queries)
    return curves(model, greys(margins), PGD(0.1), settings, seed=0)


def bools(*counts: tuple[int, bool]) -> Tensor:
    return torch.cat([torch.full((count,), value) for count, value in counts])


@pytest.mark.parametrize(("more", "less"), [(0, 0), (3, 0), (0, 3), (7, 2), (30, 31), (400, 300)])
def test_the_sign_test_is_the_tail_of_a_fair_coin(more: int, less: int) -> None:
    throws = more + less
    expected = sum(Fraction(comb(throws, heads), 2**throws) for heads in range(throws, more - 1, -1))
    assert sign_test(more, less) == pytest.approx(float(expected), rel=1e-12)
    assert sign_test(3, 0) == 1 / 8 and sign_test(1, 1) == (comb(2, 1) + 1) / 4


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


def test_of_a_smooth_model_the_curve_is_the_distance_to_the_boundary_and_nothing_warns() -> None:
    found = evaluated(Brightness(), queries=50)
    assert [point.epsilon for point in found.by_epsilon] == pytest.approx([0.1 * share for share in EPSILONS] + [1.0])
    assert [point.steps for point in found.by_steps] == list(STEPS)
    for point in [*found.by_epsilon, *found.by_steps]:
        robust = int((distances(greys(MARGINS)) > point.epsilon).sum())
        assert point.robust_accuracy == pytest.approx(robust / 60), point
        assert point.robust_interval == interval(robust, 60)
    assert found.warnings == ["The 60 examples hold 1 of 2 classes: the figure says nothing of the others."]
    assert (found.samples, found.drawn) == (60, "all")
    assert found.black_box is not None and found.black_box.attack == "Square, 50 queries"


def test_a_shattered_model_is_found_out_without_limits_and_by_the_black_box() -> None:
    found = evaluated(Shattered(), queries=200, margins=MARGINS / 4)
    assert any("ball of ε = 1 holds every image" in each for each in found.warnings)
    assert any("leaves" in each and "Square, 200 queries only" in each for each in found.warnings)
