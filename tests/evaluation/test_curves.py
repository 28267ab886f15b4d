"""Robust accuracy against ε and steps: a warning where a stronger attack leaves more standing, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.config import EvaluationSettings
from sparring.evaluation.curves import EPSILONS, STEPS, Curves, curves
from sparring.evaluation.memory import Results
from sparring.evaluation.robustness import interval
from tests.support.models import Brightness, Shattered, distances, greys

MARGINS = torch.linspace(0.03, 0.41, 20).repeat(3)  # none lies on a ball of the grid


def evaluated(model: nn.Module, queries: int = 0, margins: Tensor = MARGINS) -> Curves:
    settings = EvaluationSettings(steps=5, restarts=1, square_queries=queries)
    return curves(model, greys(margins), PGD(0.1), settings, seed=0)


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


class Counting(Brightness):
    """Counts its passes, and fails after as many as it may make."""

    made, most = 0, 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.made += 1
        if self.made > self.most:
            raise KeyboardInterrupt
        found: Tensor = super().forward(x)
        return found


def test_what_is_known_is_not_attacked_again_and_changes_no_figure(tmp_path: Path) -> None:
    settings = EvaluationSettings(steps=5, restarts=1, square_queries=50, batch_size=25)
    images, model = greys(MARGINS), Counting()

    def found(epsilon: float = 0.1) -> Curves:
        return curves(model, images, PGD(epsilon), settings, seed=0, results=kept)

    kept = Results(tmp_path, "curves", {})
    with kept.owned():
        kept.begin()
    model.most = 300
    with pytest.raises(KeyboardInterrupt):
        found()
    model.made, model.most = 0, 10**9
    rest = found()
    whole = curves(model, images, PGD(0.1), settings, seed=0)
    of_rest, model.made = model.made, 0
    assert found() == rest == whole
    looks, model.made = model.made, 0
    assert looks < 300 < of_rest - 2 * looks, "but for the looks at survivors nothing is left to be done"
    found(epsilon=0.09)
    assert model.made > looks + 300, "another attack's outcomes are not taken for these"
