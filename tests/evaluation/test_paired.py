"""The tests and intervals of paired shares agree with values computed otherwise."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from scipy.stats import binomtest

from sparring.evaluation.paired import compared, difference, holm, mcnemar


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 3), (10, 2), (2, 10), (40, 60), (0, 7)])
def test_mcnemars_p_value_is_that_of_the_binomial_distribution(one: int, other: int) -> None:
    expected = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)


def test_holms_correction_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02]


def test_the_interval_covers_the_difference_about_as_often_as_it_says() -> None:
    random, covered = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        drawn = torch.rand(200, generator=random)
        one, other = int((drawn < 0.15).sum()), int((drawn > 0.9).sum())  # 0.15 against 0.1
        low, high = difference(one, other, 200)
        covered += low <= 0.05 <= high
    assert 0.93 < covered / 1000 < 0.975
    assert difference(0, 0, 100) == pytest.approx((-0.0192, 0.0192), abs=1e-4)
    assert NormalDist().inv_cdf(0.975) == pytest.approx(1.959964)


def test_all_pairs_are_compared() -> None:
    truth = torch.arange(100)
    a, b, c = truth < 80, truth < 60, (truth < 55) | (truth > 90)
    one, other, third = compared(["a", "b", "c"], [a, b, c])
    assert (one.first, one.second, one.only_first, one.only_second) == ("a", "b", 20, 0)
    assert one.difference == pytest.approx(0.2) and one.interval[0] > 0.1 and one.p_value < 1e-4
    assert (third.first, third.second, third.only_first, third.only_second) == ("b", "c", 5, 9)
    assert third.p_value > 0.4 and third.interval[0] < 0 < third.interval[1]
    assert other.samples == 100
