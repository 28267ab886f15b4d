"""A network that fools the cross-entropy, whose robust accuracy is known to be 0; a sound one is not accused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import PGD
from sparring.data import ArrayDataset
from sparring.evaluation.other_loss import other_loss

EPSILON = 0.1
BRIGHTNESS = 140 / 255


class Decoys(nn.Module):
    """Class 0 where an image is bright, else class 1: an image of 140/255 is lost 0.05 below.

    Eight decoys rise with the brightness and stop before they could win. Together they outweigh class 1 in the
    cross-entropy, which pushes the brightness up.
    """

    def __init__(self, *, slope: float = 60.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        brightness = x.flatten(1).mean(1)
        own = 20 * (brightness - 0.5)
        decoy = (self.slope * (brightness - BRIGHTNESS) - 1.2).clamp_max(-0.5)
        return torch.stack([own, -own, *[decoy] * 8], 1)


def bright(count: int) -> ArrayDataset:
    return ArrayDataset(torch.full((count, 1, 8, 8), 140, dtype=torch.uint8), torch.zeros(count).long(), 10, "bright")


def test_a_figure_that_another_loss_proves_wrong_is_warned_of() -> None:
    found = sparring.evaluate(Decoys(), bright(20), epsilon=EPSILON)
    assert found.robust_accuracy == 1.0
    assert "Another loss breaks 20 of 20 examples that survived" in found.warnings[-1]
    sound = sparring.evaluate(Decoys(slope=0.0), bright(20), epsilon=EPSILON)
    assert sound.robust_accuracy == 0.0 and not any("Another loss" in text for text in sound.warnings)


@pytest.mark.parametrize(
    ("attack", "survivors", "told"),
    [
        (PGD(EPSILON, steps=10), 300, "breaks 128 of 128"),
        (PGD(0.03, steps=10), 300, None),
        (PGD(EPSILON, steps=9), 300, None),
        (PGD(EPSILON, steps=10, loss="kl"), 300, None),
        (PGD(EPSILON, steps=10), 4, None),
        (PGD(EPSILON, steps=10), 0, None),
    ],
    ids=["fooled", "a ball within which nothing is lost", "few steps", "no cross-entropy", "few survivors", "none"],
)
def test_it_speaks_of_a_cross_entropy_of_enough_steps_that_was_fooled(
    attack: PGD, survivors: int, told: str | None
) -> None:
    found = other_loss(Decoys(), bright(300), attack, torch.arange(survivors), seed=0)
    assert len(found) == (told is not None) and all(told is not None and told in text for text in found)


def test_a_share_that_sound_networks_lose_too_is_passed_over() -> None:
    """Of 100 survivors some are so bright that nothing breaks them."""
    for weak, warned in ((5, False), (6, True)):
        images = torch.cat([bright(weak).images(torch.arange(weak)), torch.full((100 - weak, 1, 8, 8), 250).byte()])
        data = ArrayDataset(images, torch.zeros(100).long(), 10, "bright")
        found = other_loss(Decoys(), data, replace(PGD(EPSILON), steps=10), torch.arange(100), seed=0)
        assert bool(found) == warned
