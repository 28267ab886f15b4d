"""Synchronous rivals on the clock, against arithmetic."""

from __future__ import annotations

import pytest

from sparring.config import Config, from_tree
from sparring.engines.virtual.hollow import Work
from sparring.engines.virtual.rivals import data_parallel, slices


def recipe(**virtual: float) -> Config:
    times = {"attack_s": 0.1, "attack_example_s": 0.01, "step_s": 0.2, "step_example_s": 0.02, "jitter": 0.0}
    return from_tree({"virtual": {"message_s": 0.5, "bandwidth": 100.0, **times, **virtual}})


def test_a_batch_is_cut_evenly_and_nobody_has_an_example_too_many() -> None:
    assert [work.examples for work in slices(10, 4, 2)] == [3, 3, 2, 2]
    assert slices(1, 2, 3) == [Work(1, (1, 1, 1)), Work(0, ())]


def test_the_loop_takes_its_attack_and_its_step() -> None:
    assert data_parallel(recipe(), [slices(10, 1, 3)] * 2) == pytest.approx([3 * 0.2 + 0.4, 2 * (3 * 0.2 + 0.4)])


def test_the_slowest_rank_rules_and_gradients_are_added_up() -> None:
    even = [slices(10, 2, 3)]
    alone = 3 * 0.15 + 0.3
    assert data_parallel(recipe(), even, size_bytes=200) == pytest.approx([alone + 2 * (0.5 + 1.0)])
    assert data_parallel(recipe(), even, speeds=[1.0, 0.5]) == pytest.approx([2 * alone + 2 * 0.5])
    uneven = [Work(5, (5, 5, 5)), Work(5, (1,))]
    assert data_parallel(recipe(), [uneven]) == pytest.approx([alone + 2 * 0.5])


def test_jitter_costs_a_step_of_many_ranks_more_than_one() -> None:
    few, many = (data_parallel(recipe(jitter=0.5, message_s=0.0), [slices(10 * n, n, 3)] * 40)[-1] for n in (1, 10))
    assert many > 1.1 * few
