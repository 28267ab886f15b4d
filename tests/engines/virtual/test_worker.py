"""A virtual worker: it dies with its tickets, and waits for weights that its ticket needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.engines.virtual.worker import NewestWorker
from sparring.queue.messages import Controls, Key, Ticket
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.history import networks_of
from tests.support.runs import small


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return build_experiment(small(tmp_path, engine="virtual", attack={"steps": 2}))


@pytest.fixture
def cluster(experiment: Experiment) -> Cluster:
    settings = experiment.config.virtual.model_copy(update={"jitter": 0.0, "attack_s": 1.0, "attack_example_s": 0.0})
    return Cluster(settings, lease_s=5.0, seed=0)


def publish(cluster: Cluster, experiment: Experiment, version: int) -> None:
    weights = networks_of(experiment.model, None).state_dict()
    cluster.publish((1, version), weights, Controls(0.2), keep=3)


def issue(cluster: Cluster, version: int, number: int = 0) -> None:
    VirtualTransport(cluster).issue([Ticket(Key(0, number, 0), 1, version, (1, 2, 3), "")])


def test_it_waits_for_the_version_of_its_ticket_and_every_step_takes_its_time(
    cluster: Cluster, experiment: Experiment
) -> None:
    NewestWorker(experiment, cluster, "worker-1", 0.5, exchange=False)
    publish(cluster, experiment, 2)
    issue(cluster, 3)
    cluster.advance(10.0)
    assert cluster.arrived == [] and len(cluster.leases) == 1
    publish(cluster, experiment, 3)
    cluster.advance(4.0)
    assert cluster.arrived == [], "two steps of a second at half the speed"
    cluster.advance(0.1)
    (shard,) = cluster.arrived
    assert (shard.version, shard.worker) == (3, "worker-1")
    assert shard.attack_seconds == pytest.approx(14.0, abs=0.01)


def test_a_worker_that_dies_in_the_middle_of_a_step_sends_nothing(cluster: Cluster, experiment: Experiment) -> None:
    worker = NewestWorker(experiment, cluster, "worker-1", 1.0, exchange=False)
    publish(cluster, experiment, 0)
    issue(cluster, 0)
    cluster.advance(1.5)
    worker.die()
    cluster.advance(10.0)
    assert cluster.arrived == [] and cluster.leases == {}
    assert [each.reason for each in cluster.returned] == ["lease_expired"]


def test_what_is_void_is_not_sent_and_weights_of_another_fence_are_loaded_anew(
    cluster: Cluster, experiment: Experiment
) -> None:
    NewestWorker(experiment, cluster, "worker-1", 1.0, exchange=False)
    publish(cluster, experiment, 0)
    issue(cluster, 0)
    cluster.advance(1.5)
    cluster.void()
    cluster.advance(10.0)
    assert cluster.arrived == [] and cluster.leases == {} and cluster.returned == []
    issue(cluster, 0)
    cluster.advance(10.0)
    assert [shard.version for shard in cluster.arrived] == [0]


@pytest.mark.parametrize(
    ("slots", "ends_s"),
    [
        pytest.param(0, [8.0, 16.0, 24.0], id="one ticket after the other, 3 examples a step"),
        pytest.param(3, [8.0, 16.0, 24.0], id="slots for one ticket"),
        pytest.param(6, [14.0, 14.0, 28.0], id="slots for two tickets, idle ones while the third is alone"),
    ],
)
def test_tickets_that_share_slots_share_the_time_of_their_steps(
    tmp_path: Path, slots: int, ends_s: list[float]
) -> None:
    experiment = build_experiment(
        small(tmp_path, engine="virtual", attack={"steps": 2}, allocator={"slots": slots}, staleness={"exchange": True})
    )
    times = {"jitter": 0.0, "attack_s": 1.0, "attack_example_s": 1.0, "push_s": 0.0, "load_s": 0.0, "publish_s": 0.0}
    cluster = Cluster(experiment.config.virtual.model_copy(update=times), lease_s=5.0, seed=0)
    NewestWorker(experiment, cluster, "worker-1", 1.0, exchange=True)
    publish(cluster, experiment, 0)
    for number in range(3):
        issue(cluster, 0, number)
    ended: list[float] = []
    while len(ended) < 3:
        cluster.wait(100.0)
        ended += [cluster.now] * len(cluster.arrived)
        cluster.arrived.clear()
    assert ended == ends_s
