"""AutoAttack through its adapter: closed forms, any number of classes, and nothing left behind."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.norms import Norm
from sparring.config import AttackSettings, DataSettings, EvaluationSettings, ModelSettings
from sparring.data import load
from sparring.errors import SparringError
from sparring.evaluation import autoattack, judge
from sparring.evaluation.autoattack import survivors
from sparring.evaluation.robustness import interval
from sparring.models import build

PIXELS = 3 * 8 * 8


def linear(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).train()


def images(n: int) -> Tensor:
    """Away from the edges of the image box, so that the ball alone counts."""
    return 0.4 + 0.2 * torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def breaking_point(model: nn.Module, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """float32 [N]: the smallest ε that breaks each example: margin over the dual norm of the difference of weights."""
    layer = model[1]  # type: ignore[index]
    logits, weight = layer(x.flatten(1)), layer.weight
    points = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        reach = (weight[label] - weight).norm(p=1 if norm == "linf" else 2, dim=1)
        points.append(min(float((row[label] - row[j]) / reach[j]) for j in range(len(row)) if j != label))
    return torch.tensor(points)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_on_a_linear_model_what_survives_is_what_can(classes: int, norm: Norm) -> None:
    model, x = linear(classes), images(12)
    labels = model(x).argmax(1)
    labels[:3] = (labels[:3] + 1) % classes  # wrong without an attack
    points = breaking_point(model, x, labels, norm)
    middle = points.sort().values[6:10]
    where = int(middle.diff().argmax())
    epsilon = float(middle[where : where + 2].mean())
    expected = points > epsilon
    alive = survivors(model, x, labels, norm=norm, epsilon=epsilon, classes=classes, seed=0, batch_size=10)
    assert torch.equal(alive, expected)
    assert model.training and all(each.requires_grad and each.grad is None for each in model.parameters())


def test_progress_is_told_in_order_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []
    model, x = linear(10), images(12)

    def progress(done: int, total: int) -> None:
        assert total == 12
        told.append(done)

    run(model, x, progress)
    assert told == sorted(told) and told[0] == 0 and told[-1] == 12 and len(told) > 3
    assert capfd.readouterr() == ("", "")


def test_what_progress_raises_ends_the_judgement() -> None:
    def stop(done: int, total: int) -> None:
        if done > 0:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run(linear(10), images(12), stop)


def test_tracing_goes_on_afterwards() -> None:
    before = sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> None:
        return None

    sys.settrace(trace)
    try:
        run(linear(3), images(4), None)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_an_image_outside_its_ball_is_not_passed_over() -> None:
    x = images(2)
    with pytest.raises(SparringError, match="left its ball"):
        autoattack._require_inside(x + 0.11, x, "linf", 0.1)
    autoattack._require_inside(x + 0.1, x, "linf", 0.1)


def test_the_evaluation_says_how_it_was_made_and_the_seed_decides() -> None:
    settings = EvaluationSettings(attack="autoattack", samples=12)
    digits = load(DataSettings(), "test")
    model = build(ModelSettings(), digits.shape, digits.classes, 0)
    one, other = (judge(model, digits, AttackSettings(epsilon=0.02), settings, seed=3) for _ in range(2))
    assert one.robust_accuracy == other.robust_accuracy <= one.clean_accuracy
    assert one.samples == 12 and one.robust_interval == interval(round(12 * one.robust_accuracy), 12)
    assert one.attack == "AutoAttack standard (apgd-ce, apgd-t, fab-t, square), linf 0.02"


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_intervals_are_wilsons(successes: int, total: int, low: float, high: float) -> None:
    assert interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def run(model: nn.Module, x: Tensor, progress: autoattack.Progress | None) -> Tensor:
    classes = model[1].out_features  # type: ignore[index]
    labels = model(x).argmax(1)
    return survivors(
        model, x, labels, norm="linf", epsilon=0.001, classes=classes, seed=0, batch_size=5, progress=progress
    )
