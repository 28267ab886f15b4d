"""The time model, against arithmetic."""

from __future__ import annotations

import pytest

from sparring.allocators.bullettrain import BulletTrain
from sparring.attacks import PGD
from sparring.config import VirtualSettings
from sparring.engines.virtual.times import allreduce_s, attack_step_s, forward_s, prepare_s, step_s

MODEL = VirtualSettings(
    attack_s=0.1,
    attack_example_s=0.01,
    forward_s=0.3,
    forward_example_s=0.03,
    step_s=0.2,
    step_example_s=0.02,
    message_s=0.5,
    bandwidth=100,
)


def test_every_part_has_a_constant_and_one_for_each_example() -> None:
    assert attack_step_s(MODEL, 10) == pytest.approx(0.2) and attack_step_s(MODEL, 0) == 0
    assert forward_s(MODEL, 10) == pytest.approx(0.6) and step_s(MODEL, 10) == pytest.approx(0.4)


@pytest.mark.parametrize(("ranks", "seconds"), [(1, 0.0), (2, 2 * (0.5 + 1.0)), (4, 6 * (0.5 + 0.5))])
def test_a_ring_sends_its_messages_one_after_the_other(ranks: int, seconds: float) -> None:
    assert allreduce_s(MODEL, ranks, size_bytes=200) == pytest.approx(seconds)


def test_only_an_allocator_or_a_clean_target_needs_a_clean_pass() -> None:
    assert prepare_s(MODEL, PGD(0.1), None, 10) == 0
    assert prepare_s(MODEL, PGD(0.1), BulletTrain(), 10) == forward_s(MODEL, 10)
