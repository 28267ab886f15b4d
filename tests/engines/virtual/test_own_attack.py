"""Trainers attack between their training steps, and every step takes its virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sparring.engines.asynchronous.own_attack import OwnAttack
from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.engines.virtual.own_attack import VirtualOwn, VirtualRank
from sparring.queue.messages import Key, RankOf, Ticket
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from tests.support.runs import small

PREPARE_S, STEP_S = 0.5, 1.0


@dataclass
class Bench:
    """A cluster with a ticket of an attack of two steps, which a trainer may attack."""

    cluster: Cluster
    own: OwnAttack


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    experiment = build_experiment(small(tmp_path, engine="virtual", attack={"steps": 2}))
    settings = experiment.config.virtual.model_copy(update={"jitter": 0.0, "attack_s": STEP_S, "attack_example_s": 0.0})
    cluster = Cluster(settings, lease_s=5.0, seed=0)
    transport = VirtualTransport(cluster)
    transport.issue([Ticket(Key(0, 0, 0), 1, 0, (1, 2, 3), "")])
    learner = Learner(experiment, torch.device("cpu"))
    return Bench(cluster, OwnAttack(experiment, learner, transport))  # type: ignore[arg-type]


def test_the_first_trainer_does_nothing_else_meanwhile(bench: Bench) -> None:
    own = VirtualOwn(bench.own, bench.cluster, PREPARE_S, RankOf())
    assert own.begin() and own.advance() is None
    assert bench.cluster.now == PREPARE_S + STEP_S
    shard = own.advance()
    assert shard is not None and shard.attack_seconds == bench.cluster.now == PREPARE_S + 2 * STEP_S
    assert not own.begin(), "there is no other ticket"


def test_another_one_goes_on_by_itself_and_stops_for_training(bench: Bench) -> None:
    cluster, rank = bench.cluster, VirtualRank(bench.own, bench.cluster, PREPARE_S, RankOf(1, 2))
    cluster.advance(1.0)  # it has looked, and begun
    assert rank.busy_s == PREPARE_S + STEP_S - 1.0
    rank.train()
    cluster.advance(9.0)
    assert rank.busy_s == 0 and cluster.arrived == []
    rank.wake_up()
    cluster.advance(STEP_S)
    assert cluster.arrived == [], "the other trainer trains on it: it is under way"
    cluster.advance(cluster.settings.push_s)
    (shard,) = cluster.arrived
    assert (shard.worker, shard.attack_seconds) == ("trainer", 11.0)
