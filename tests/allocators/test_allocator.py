"""What every allocator shares: budgets by example, counts by class, and the speed-ups that they promise."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sparring.allocators import (
    Allocator,
    Budget,
    Candidates,
    augmix_speedup,
    mean_steps,
    speedup_ceiling,
    theoretical_speedup,
)
from sparring.allocators.allocator import allocation_of
from sparring.allocators.bullettrain import BulletTrain
from sparring.attacks import PGD
from sparring.attacks.augmix import AugMix, Threat
from sparring.config import AugmixSettings
from tests.support.batches import images, linear_model, seeded

PGD_10 = PGD(0.031, steps=10, step_size=0.007)


def counts(outlier: float, boundary: float, robust: float) -> dict[str, float]:
    return {"outlier": outlier, "boundary": boundary, "robust": robust}


class ByBrightness(Allocator):
    """Five classes of the user's own, from dark to bright; the brighter, the more steps."""

    classes = ("black", "dark", "grey", "bright", "white")

    def classify(self, candidates: Candidates) -> Tensor:
        return (5 * candidates.x.flatten(1).mean(1)).long().clamp(0, 4)

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        return [Budget(steps, attack.epsilon / (steps + 1)) for steps in range(5)]

    def gradients(self, examples: int) -> int:
        return 3 * examples


def candidates(x: Tensor) -> Candidates:
    labels = torch.zeros(len(x), dtype=torch.int64)
    return Candidates(linear_model(), x, labels, torch.zeros(len(x), 2), PGD(0.3), 0.0, seeded())


def test_an_allocator_may_have_any_number_of_named_classes() -> None:
    x = torch.tensor([0.5, 0.1, 0.9, 0.5, 0.3]).view(-1, 1, 1, 1).expand(-1, 1, 6, 6)
    found = ByBrightness().allocate(candidates(x))
    assert found.step_counts.tolist() == [2, 0, 4, 2, 1]
    assert found.step_sizes.tolist() == pytest.approx([0.1, 0.3, 0.06, 0.1, 0.15])
    assert found.counts == {"black": 1, "dark": 1, "grey": 2, "bright": 0, "white": 1}
    assert found.gradients == 15


@pytest.mark.parametrize(("numbers", "budgets"), [([0, 2], 2), ([-1, 0], 2), ([0, 1], 3)])
def test_class_numbers_and_budgets_that_do_not_fit_are_refused(numbers: list[int], budgets: int) -> None:
    with pytest.raises(ValueError, match=rf"classes \('a', 'b'\) returned {budgets} budgets and class numbers from"):
        allocation_of(torch.tensor(numbers), ("a", "b"), [Budget(1, 0.1)] * budgets)


def test_gradients_of_a_classification_are_steps_that_are_not_saved() -> None:
    """Ten attack steps and the training step, against 0, 1, …, 4 steps, three gradients and the training step."""
    brightness = dict.fromkeys(ByBrightness.classes, 1.0)
    assert theoretical_speedup(brightness, ByBrightness(), PGD_10) == pytest.approx((10 + 1) / (2 + 3 + 1))
    ceiling = speedup_ceiling(brightness, ByBrightness(), PGD_10, forward_s=0.5, attack_step_s=1.0, step_s=2.0)
    assert ceiling == pytest.approx((10 + 2) / (0.5 + 2 + 3 + 2))
    with pytest.raises(ValueError, match=r"gradients\(\) = -1: at least 0"):
        allocation_of(torch.tensor([0]), ("a",), [Budget(1, 0.1)], gradients=-1)


def test_what_an_allocator_does_not_say_has_a_default_or_an_error_with_its_name() -> None:
    class Empty(Allocator):
        pass

    empty = Empty()
    assert (empty.gradients(7), empty.updated(0.4, 0.9), empty.with_full_steps()) == (0, 0.4, empty)
    with pytest.raises(NotImplementedError, match="Empty does not classify"):
        empty.allocate(candidates(images()[0]))
    with pytest.raises(NotImplementedError, match="Empty has no budgets"):
        empty.budgets(PGD_10)


@pytest.mark.parametrize(
    ("fractions", "robust_steps", "reported"), [((18, 28, 54), 2, 2.3), ((27, 29, 44), 1, 2.5), ((26, 30, 43), 2, 2.2)]
)
def test_equation_7_gives_the_papers_speed_ups(
    fractions: tuple[int, int, int], robust_steps: int, reported: float
) -> None:
    allocator = BulletTrain(boundary_steps=10, robust_steps=robust_steps)
    assert theoretical_speedup(counts(*fractions), allocator, PGD_10) == pytest.approx(reported, abs=0.07)


def test_mean_steps_are_of_the_examples_that_were_counted() -> None:
    allocator = BulletTrain(robust_steps=2)
    assert mean_steps(counts(18, 28, 54), allocator, PGD_10) == pytest.approx(2.8 + 1.08)
    assert mean_steps({"boundary": 1}, allocator, PGD_10) == 10.0
    assert mean_steps({}, allocator, PGD_10) == 0.0


def test_the_ceiling_is_equation_7_where_a_step_is_an_attack_step_and_classifying_is_free() -> None:
    allocator, fractions = BulletTrain(boundary_steps=10, robust_steps=2), counts(0.18, 0.28, 0.54)

    def ceiling(forward_s: float, step_s: float, loss: str) -> float:
        attack = PGD(0.031, steps=10, loss=loss)
        return speedup_ceiling(fractions, allocator, attack, forward_s=forward_s, attack_step_s=1.0, step_s=step_s)

    spent = 0.28 * 10 + 0.54 * 2
    assert ceiling(0.0, 1.0, "ce") == pytest.approx(theoretical_speedup(fractions, allocator, PGD_10))
    assert ceiling(0.4, 1.5, "ce") == pytest.approx((10 + 1.5) / (0.4 + spent + 1.5))
    assert ceiling(0.4, 1.5, "kl") == pytest.approx((0.4 + 10 + 1.5) / (0.4 + spent + 1.5))
    twice = theoretical_speedup(fractions, allocator, PGD(0.031, steps=10, restarts=2))
    assert twice == pytest.approx(21 / (2 * spent + 1))


@pytest.mark.parametrize(
    ("boundary", "robust_steps", "passes"), [(35, 0, 1.7), (100, 0, 3.0), (0, 0, 1.0), (35, 1, 2.6)]
)
def test_augmix_is_spared_passes_of_views(boundary: int, robust_steps: int, passes: float) -> None:
    outliers = min(20, 100 - boundary)
    found = counts(outliers, boundary, 100 - boundary - outliers)
    allocator, attack = BulletTrain(robust_steps=robust_steps), AugMix(AugmixSettings())
    assert augmix_speedup(found, allocator, attack) == pytest.approx(3 / passes)
