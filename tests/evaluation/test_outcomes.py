"""What becomes of each example, and the images that it was attacked with."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.attacks import PGD
from sparring.evaluation.outcomes import Outcomes, joined, outcomes
from tests.support.models import Brightness, greys

MARGINS = torch.tensor([0.02, -0.05, 0.2, -0.3, 0.08, 0.4])
WRONG = 3


def attacked(restarts: int = 2, batch_size: int = 4) -> tuple[Outcomes, Tensor, Tensor]:
    labels = (MARGINS > 0).long()
    labels[WRONG] = 1 - labels[WRONG]
    parts: list[tuple[Tensor, Tensor]] = []
    found = outcomes(
        Brightness(),
        greys(MARGINS, labels),
        PGD(0.1, steps=5, restarts=restarts),
        batch_size=batch_size,
        attacked=lambda x, labels, images: parts.append((x, images)),
    )
    clean, images = (torch.cat(each) for each in zip(*parts, strict=True))
    return found, clean, images


def test_exactly_what_is_nearer_than_the_radius_falls() -> None:
    found, _, _ = attacked()
    assert found.clean.tolist() == [True, True, True, False, True, True]
    assert found.robust.tolist() == [False, False, True, False, False, True]
    assert not (found.zero_gradient | found.non_finite_gradient | found.non_finite_logits | found.probabilities).any()


def test_the_attacked_image_of_an_example_is_the_one_by_which_it_fell() -> None:
    found, clean, images = attacked()
    wrong = Brightness()(images).argmax(1) != found.labels
    assert torch.equal(wrong, ~found.robust)
    assert (images - clean).abs().max() <= 0.1 + 1e-6 and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images[WRONG], clean[WRONG]) and (images != clean).flatten(1).any(1).sum() == len(MARGINS) - 1


def test_batches_are_joined_in_order() -> None:
    whole, parts = attacked(batch_size=6)[0], attacked(batch_size=1)[0]
    assert torch.equal(whole.robust, parts.robust) and torch.equal(whole.labels, parts.labels)
    assert len(joined([whole, parts]).labels) == 2 * len(MARGINS)
