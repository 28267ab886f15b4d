"""What the files hold becomes values; the averaged weights have figures of their own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sparring.report.figures import Curves, Figures, of_average
from tests.support.reported import CURVES, SUMMARY


def test_the_average_has_its_own_figures_on_the_same_examples() -> None:
    summary = {**SUMMARY, "ema_robust_accuracy": 0.55, "ema_clean_accuracy": 0.91, "ema_warnings": []}
    found = Figures.model_validate({name: each for name, each in of_average(summary).items() if each is not None})
    assert (found.robust_accuracy, found.clean_accuracy, found.samples, found.warnings) == (0.55, 0.91, 100, [])
    assert of_average(SUMMARY) == {}


def test_a_curve_without_its_points_is_none() -> None:
    assert Curves.model_validate(CURVES).by_steps[2].steps == 100
    with pytest.raises(ValidationError):
        Curves.model_validate({**CURVES, "by_steps": [{}]})
