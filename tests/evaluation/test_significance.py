"""The sign test against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from sparring.evaluation.significance import sign_test


@pytest.mark.parametrize(("more", "less"), [(0, 0), (3, 0), (0, 3), (7, 2), (30, 31), (400, 300)])
def test_the_sign_test_is_the_tail_of_a_fair_coin(more: int, less: int) -> None:
    throws = more + less
    expected = sum(Fraction(comb(throws, heads), 2**throws) for heads in range(throws, more - 1, -1))
    assert sign_test(more, less) == pytest.approx(float(expected), rel=1e-12)
    assert sign_test(3, 0) == 1 / 8 and sign_test(1, 1) == (comb(2, 1) + 1) / 4
