"""What a recipe costs is measured with its own model, data and attack, and nothing of it stays."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparring.commands.calibration import Measured, extrapolated, measure
from sparring.config import from_tree
from sparring.trainer.experiment import build_experiment

pytestmark = pytest.mark.usefixtures("quick")
BATCH, PIXELS = 64, 64


def measured(**groups: Any) -> Measured:
    return measure(build_experiment(from_tree(groups)))


def test_every_part_of_the_demo_takes_its_time_and_threads_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    found = measured()
    assert torch.get_num_threads() == threads
    assert min(found.attack_s, found.step_s, found.encode_s, found.decode_s, found.snapshot_load_s) > 0
    assert found.round_trip_s is not None and found.round_trip_s > 0
    assert found.shape == (1, 8, 8) and found.attack_s > found.forward_s > 0
    parts = (found.encode_s, found.round_trip_s, found.decode_s, found.snapshot_send_s, found.snapshot_load_s)
    assert found.latency_s == pytest.approx(sum(parts))
    assert replace(found, round_trip_s=None).latency_s == pytest.approx(sum(parts) - found.round_trip_s)


def test_what_a_step_takes_for_any_number_of_shards_is_counted_once() -> None:
    of_optimizer, of_shard = 0.3, 0.1
    short_s, long_s = (of_optimizer + of_shard * shards for shards in (2, 4))
    assert extrapolated(2, short_s, 4, long_s, 20) == pytest.approx(of_optimizer + 20 * of_shard)
    assert extrapolated(2, 0.5, 4, 0.4, 20) == 0.5, "a longer step that was timed as a shorter one adds nothing"


def test_a_run_in_one_process_has_no_way_to_a_queue_and_all_its_threads_attack() -> None:
    found = measured(engine="sync", trainer={"threads": 1})
    assert found.round_trip_s is None and found.worker_threads == found.trainer_threads == 1


@pytest.mark.parametrize(
    ("groups", "bytes_per_pixel"),
    [({}, 1), ({"queue": {"wire": "exact"}}, 4), ({"attack": {"name": "augmix"}, "objective": {"name": "augmix"}}, 2)],
    ids=["int8", "exact", "two views"],
)
def test_a_payload_is_as_large_as_what_travels(groups: dict[str, Any], bytes_per_pixel: int) -> None:
    least = BATCH * PIXELS * bytes_per_pixel
    assert least < measured(engine="simulated", **groups).payload_bytes < least + BATCH * 8 + 512


@pytest.mark.parametrize(("precision", "bytes_per_weight"), [("fp32", 4), ("bf16", 2)])
def test_a_snapshot_is_as_large_as_the_weights_in_their_precision(precision: str, bytes_per_weight: int) -> None:
    experiment = build_experiment(from_tree({"engine": "sync", "model": {"precision": precision}}))
    tensors = experiment.model.state_dict().values()
    large, small = (sum(each.numel() for each in tensors if (each.ndim > 1) is many) for many in (True, False))
    assert measure(experiment).snapshot_bytes == bytes_per_weight * large + 4 * small


def test_an_attack_of_many_steps_takes_longer_and_an_allocator_does_not_hide_it() -> None:
    one, many = (measured(engine="sync", attack={"name": "pgd", "steps": steps}).attack_s for steps in (1, 50))
    spared = measured(engine="sync", attack={"name": "pgd", "steps": 50}, allocator={"name": "bullettrain"}).attack_s
    assert many > 5 * one and spared > 5 * one


def test_without_a_server_the_way_to_the_queue_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert measured().round_trip_s is None
