"""What saturates first, by hand: an attack of 8 steps of 10 ms, a step of 10 ms, shards of 100 examples of 10×10."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.commands.limits import Limit, ServerLoad, limits, sentence, server_load
from sparring.config import from_tree

SHAPE, SNAPSHOT_BYTES = (1, 10, 10), 1_000_000
LOAD = ServerLoad(ticket_s=0.0001, payload_s=0.0003)
SHARD_BYTES = 100 * 100 + 8 * 100 + 1024  # int8, labels, the header's allowance
DEVICE_S = 0.09


def found(trainers: int = 1, **queue: Any) -> dict[str, Limit]:
    config = from_tree(
        {
            "attack": {"steps": 8},
            "train": {"batch_size": 100},
            "trainer": {"count": trainers},
            "queue": queue,
            "virtual": {"attack_example_s": 1e-4, "step_example_s": 1e-4, "bandwidth": 1e7},
        }
    )
    return {limit.part: limit for limit in limits(config, SHAPE, SNAPSHOT_BYTES, LOAD)}


def test_one_server_carries_tickets_payloads_and_small_weights() -> None:
    made = found()
    assert {part: limit.shards_per_second for part, limit in made.items()} == pytest.approx(
        {
            "the trainers' steps": 100.0,
            "the weights through the queue": 10.0,
            "the queue's server": 2500.0,
            "the network of the trainers": 1e7 / SHARD_BYTES,
            "the network of the payloads": 1e7 / SHARD_BYTES,
        }
    )
    assert list(made)[:2] == ["the weights through the queue", "the trainers' steps"], "the lowest first"
    assert made["the trainers' steps"].devices == pytest.approx(9.0), "1 + attack / step"
    assert made["the queue's server"].devices == pytest.approx(2500 * DEVICE_S)


def test_payload_servers_and_trainers_carry_in_proportion_to_their_number() -> None:
    made = found(trainers=2, payload_urls=["redis://a", "redis://b", "redis://c"], weights="object_store")
    assert {part: limit.shards_per_second for part, limit in made.items()} == pytest.approx(
        {
            "the trainers' steps": 200.0,
            "the queue's server": 10_000.0,
            "the payload servers": 10_000.0,
            "the network of the trainers": 2e7 / SHARD_BYTES,
            "the network of the payloads": 3e7 / SHARD_BYTES,
        }
    )


def test_the_sentence_names_the_first_and_its_remedy() -> None:
    said = sentence(list(found().values()))
    assert said.startswith(
        "What saturates first as devices are added: the weights through the queue at 1 devices (queue.weights = "
        '"object_store"); then the trainers\' steps at 9 devices (trainer.count), '
    )
    assert sentence([]) == ""


def test_the_server_here_is_measured_in_another_process() -> None:
    small, large = server_load(1000), server_load(1_000_000)
    assert small is not None and large is not None
    assert 0 < small.payload_s < large.payload_s and 0 < small.ticket_s < 0.05
