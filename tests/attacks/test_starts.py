"""Warm starts as they travel."""

from __future__ import annotations

import pytest
import torch

from sparring.attacks.starts import packed, unpacked
from sparring.errors import SparringError
from tests.support.batches import seeded

SHAPE, RADIUS = (2, 3, 4), 0.1


def test_a_perturbation_comes_back_within_half_a_step_and_inside_its_ball() -> None:
    delta = RADIUS * (2 * torch.rand(5, *SHAPE, generator=seeded()) - 1)
    delta[0, 0, 0, :2] = torch.tensor([RADIUS, -RADIUS])
    rows = tuple(row.numpy().tobytes() for row in packed(delta, RADIUS))
    assert all(b"\x80" not in row for row in rows), "-128 would lie outside the ball"
    found = unpacked(rows, SHAPE, RADIUS)
    assert found is not None and bool(found.known.all())
    assert (found.delta - delta).abs().max() <= RADIUS / 254 + 1e-7
    assert found.delta.abs().max() <= RADIUS + 1e-7


def test_rows_are_shares_of_the_ball_that_the_attack_has_now() -> None:
    row = packed(torch.full((1, *SHAPE), 0.05), RADIUS)[0].numpy().tobytes()
    found = unpacked((None, row), SHAPE, 2 * RADIUS)
    assert found is not None and found.known.tolist() == [False, True]
    assert not found.delta[0].any()
    assert torch.allclose(found.delta[1], torch.tensor(0.1), atol=2 * RADIUS / 254)


def test_no_rows_are_no_start() -> None:
    assert unpacked((), SHAPE, RADIUS) is None


def test_rows_of_other_images_are_refused() -> None:
    with pytest.raises(SparringError, match=r"perturbation of 3 bytes for images of \(2, 3, 4\)"):
        unpacked((bytes(24), None, bytes(3)), SHAPE, RADIUS)
