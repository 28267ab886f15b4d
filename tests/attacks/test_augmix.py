"""AugMix in an attack's place."""

from __future__ import annotations

import torch

from sparring.attacks.augmix import AugMix, as_views, pixels
from sparring.config import AugmixSettings
from sparring.data import augmix
from tests.support.batches import seeded

IMAGES = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=seeded())


def test_it_has_no_ball_whatever_epsilon_is_now() -> None:
    attack = AugMix(AugmixSettings())
    assert attack.record == ("augmix", "linf", 0.0, 0.0, 1)
    assert attack.at(0.3) is attack


def test_views_are_those_of_the_data_pipeline_and_depend_on_seed_epoch_and_index() -> None:
    settings, indices = AugmixSettings(severity=2.0), torch.tensor([5, 9, 2, 7])
    attack = AugMix(settings)
    made = attack.views(IMAGES, seed=1, epoch=3, indices=indices)
    assert made.shape == (2, 4, 1, 8, 8) and made.dtype == torch.uint8
    assert torch.equal(made, augmix.views(IMAGES, settings, seed=1, epoch=3, indices=indices))
    assert torch.equal(made[:, 1:], attack.views(IMAGES[1:], seed=1, epoch=3, indices=indices[1:]))
    assert not torch.equal(made, attack.views(IMAGES, seed=1, epoch=4, indices=indices))


def test_what_is_not_augmented_is_the_image_twice() -> None:
    twice = as_views(IMAGES)
    assert torch.equal(twice, torch.stack([IMAGES, IMAGES]))


def test_pixels_are_bytes_again() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(pixels(every.float() / 255), every)
