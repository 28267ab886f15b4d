"""Which split of a number of devices is proposed, and what it is said to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands.splits import (
    Split,
    best_split,
    candidates_for,
    predicted,
    split_of,
    with_fresh_finish,
    work_of,
    works_of,
)
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.engines.virtual.hollow import Work
from sparring.trainer.plan import Plan
from tests.support.runs import small

EXAMPLE_S = 1e-4


def recipe(finish: int | str = 6, attack_s: float = 0.0, **allocator: str) -> Config:
    times = {"attack_example_s": EXAMPLE_S, "step_example_s": EXAMPLE_S, "publish_s": 1e-4, "push_s": 1e-4}
    return from_tree(
        {
            "attack": {"steps": 8},
            "allocator": allocator,
            "staleness": {"finish": finish},
            "train": {"batch_size": 128, "shards_per_step": 1},
            "virtual": {**times, "attack_s": attack_s, "message_s": 0.0, "jitter": 0.02},
        }
    )


PLAN = Plan(12_800, 128, 1, 1, 0)


def test_every_candidate_has_all_devices_and_about_as_many_examples_in_a_step() -> None:
    found = candidates_for(recipe(), 6)
    assert len({(each.trainer.count, each.workers.count, each.train.shards_per_step) for each in found}) == len(found)
    assert {each.trainer.count + each.workers.count for each in found} == {6}
    sizes = {each.train.shards_per_step: each.train.shards_per_step * each.train.batch_size for each in found}
    assert sizes[8] == 128 and sizes[6] == 126 and all(abs(size - 128) <= 0.05 * 128 for size in sizes.values())
    assert all(each.trainer.count <= each.train.shards_per_step for each in found)


@pytest.mark.parametrize(
    ("groups", "finish"),
    [
        pytest.param({}, "auto", id="nothing is said of it"),
        pytest.param({"staleness": {"finish": "off"}}, "off", id="it is switched off"),
        pytest.param({"staleness": {"finish": 2}}, 2, id="its length is given"),
        pytest.param({"attack": {"restarts": 2}}, "off", id="it cannot be"),
    ],
)
def test_the_advice_keeps_the_loops_accuracy_unless_the_recipe_says_otherwise(
    groups: dict[str, Any], finish: int | str
) -> None:
    assert with_fresh_finish(from_tree(groups)).staleness.finish == finish


def test_one_device_takes_what_the_loop_takes_and_four_equal_ones_about_a_quarter() -> None:
    one, four = (best_split(recipe(), PLAN, devices, 0) for devices in (1, 4))
    assert one.seconds == pytest.approx(100 * 9 * 128 * EXAMPLE_S, rel=0.02) and one.better == "sync"
    assert 0.25 * one.seconds <= four.seconds <= 0.28 * one.seconds
    assert four.ddp_seconds == pytest.approx(four.seconds, rel=0.05) and four.better == "ddp"


def test_where_small_batches_are_dear_ddp_is_behind() -> None:
    split = best_split(recipe(finish=2, attack_s=64 * EXAMPLE_S), PLAN, 16, 0)
    assert split.ddp_seconds is not None and split.seconds < 0.9 * split.ddp_seconds and split.better == "ray"
    assert split.workers > 0


def test_cost_is_all_devices_for_the_time_of_the_better_engine() -> None:
    split = Split(4, 2, 2, 8, 16, 7200.0, 10.0, 0.0, 3600.0)
    assert split.as_dict(2.5)["cost"] == pytest.approx(10.0) and "cost" not in split.as_dict()


def test_with_an_allocator_only_boundary_examples_get_all_steps() -> None:
    assert work_of([8, 0, 2, 2]) == Work(4, (1, 1, 1, 1, 1, 1, 3, 3)) and work_of([0, 0]) == Work(2, ())
    works = works_of(recipe(name="bullettrain"), 200, 100)
    mean = sum(sum(work.steps) for work in works) / sum(work.examples for work in works)
    assert mean == pytest.approx(0.28 * 8 + 0.54 * 2, rel=0.02)


def test_the_prediction_is_what_the_virtual_engine_takes(tmp_path: Path) -> None:
    training = {"batch_size": 32, "epochs": 1, "max_steps": None}
    fresh = {"finish": 2, "trainer_attacks": "always"}
    tree = {"train": training, "attack": {"steps": 3}, "data": {"limit": 640}, "staleness": fresh}
    config = split_of(small(tmp_path, **tree), 2, 2, 8)
    made = train(config, progress=False)
    size_bytes = 4 * sum(each.numel() for each in made.load_model().parameters())
    found = predicted(config, Plan(640, 4, 8, 1, 0), size_bytes)
    assert made.summary["seconds"] == pytest.approx(found.seconds, rel=0.05)
