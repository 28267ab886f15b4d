"""The engine that is named is the fastest by arithmetic on the measured times; where two tie, the simpler one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparring.commands.calibration import Measured
from sparring.commands.verdict import (
    DDP_STEP_S,
    SHARD_CORE_S,
    SHARED,
    START_S,
    Choice,
    best_of,
    by_devices,
    choices,
    core_seconds,
    ddp_rate,
    ray_rate,
    sentence,
)
from sparring.config import Config, from_tree, overridden
from sparring.trainer.plan import Plan
from tests.support.measured import measured

SHARDS = 30 * 1000


def found(machine: Measured, **groups: Any) -> list[Choice]:
    config = from_tree(groups)
    return choices(config, machine, Plan(64_000, 64, config.train.shards_per_step, config.train.epochs, 0))


def config_with(workers: int, own: str = "always") -> Config:
    return from_tree({"workers": {"count": workers}, "staleness": {"trainer_attacks": own}})


@pytest.mark.parametrize(("workers", "rate"), [(1, 2 / 0.09), (3, 4 / 0.09), (8, 9 / 0.09), (20, 9 / 0.09)])
def test_on_gpus_workers_help_until_the_trainer_is_busy(workers: int, rate: float) -> None:
    assert ray_rate(config_with(workers), measured(0.08, 0.01, gpus=32)) == pytest.approx(rate)


def test_all_processes_together_do_no_more_work_than_the_cores() -> None:
    assert ray_rate(config_with(4), measured(0.08, 0.01, cores=2)) == pytest.approx(2 / (SHARED * 0.09 + SHARD_CORE_S))


def test_the_trainer_and_each_worker_load_what_is_published() -> None:
    machine = replace(measured(0.08, 0.01, cores=2), snapshot_load_s=0.03)
    config = overridden(config_with(4), {"train.shards_per_step": 3, "staleness.publish_every": 2})
    assert core_seconds(config, machine) == pytest.approx(SHARED * 0.09 + SHARD_CORE_S + 5 * 0.03 / 6)


@pytest.mark.parametrize(("tickets", "rate"), [(4, 4 / 0.09), (6, 3 / 0.09), (8, 4 / 0.09)])
def test_the_rank_with_most_tickets_decides(tickets: int, rate: float) -> None:
    config = from_tree({"engine": "ddp", "train": {"shards_per_step": tickets}})
    assert ddp_rate(config, measured(0.08, 0.01, gpus=4), 4) == pytest.approx(rate)


def test_a_process_that_uses_all_cores_well_is_named_alone() -> None:
    machine = measured(0.08, 0.01, alone_s=0.045)
    assert best_of(found(machine)).name == "sync"
    assert [choice.engine for choice in found(machine)] == ["sync", "ray"], "a step of one ticket has no two ranks"


def test_ranks_that_use_the_cores_better_are_named() -> None:
    machine = measured(4.0, 0.5)
    best = best_of(found(machine, train={"shards_per_step": 2}))
    step_s = SHARED * 4.5 + DDP_STEP_S
    assert best.name == "ddp with 2 ranks" and best.seconds == pytest.approx(START_S["ddp"] + SHARDS / 2 * step_s)


def test_with_gpus_and_one_ticket_a_step_workers_are_named_and_no_more_than_help() -> None:
    best = best_of(found(measured(0.08, 0.01, gpus=16)))
    assert best.name == "ray with 8 workers" and best.seconds == pytest.approx(START_S["ray"] + SHARDS / 100)


def test_a_short_run_is_not_worth_the_start_of_processes() -> None:
    machine = measured(0.08, 0.01, gpus=16)
    assert best_of(found(machine, train={"max_steps": 20})).engine == "sync"


def test_methods_of_one_process_have_one_choice() -> None:
    free = {"engine": "sync", "train": {"replays": 4}, "attack": {"name": "fgsm"}}
    assert [choice.engine for choice in found(measured(0.01, 0.01, gpus=8), **free)] == ["sync"]


def test_more_devices_shorten_the_training_until_the_trainer_is_busy() -> None:
    config, plan = from_tree({}), Plan(64_000, 64, 1, 30, 0)
    seconds = by_devices(config, measured(0.08, 0.01, cores=2), plan, (1, 2, 4, 8, 16))
    assert seconds == pytest.approx({1: 2700, 2: 1350, 4: 675, 8: 337.5, 16: 300})


def test_the_sentence_has_every_expected_time() -> None:
    two = [Choice("sync", 1, 10.0, 200.0), Choice("ray", 1, 20.0, 110.0)]
    assert sentence(two).startswith("Use ray with 1 worker: about 0:01:50 until it is trained; sync 0:03:20 ")
    assert sentence(two[:1]).startswith("Use sync: about 0:03:20 until it is trained (")
