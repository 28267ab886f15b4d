"""Workers are there from the start unless they join later, and events happen to them at their times."""

from __future__ import annotations

import pytest

from sparring.config import Config, from_tree
from sparring.engines.virtual.cluster import Cluster
from sparring.engines.virtual.events import TrainerDied, populate, speed_of


class Seen:
    """A worker that notes when what happened."""

    def __init__(self, cluster: Cluster, speed: float) -> None:
        self.cluster, self.speed, self.seen = cluster, speed, [("is there", cluster.now)]

    def wake(self) -> None:
        self.seen.append(("looks", self.cluster.now))

    def die(self) -> None:
        self.seen.append(("dies", self.cluster.now))


def recipe(*events: dict[str, object]) -> Config:
    return from_tree({"workers": {"count": 3}, "virtual": {"speeds": [2.0, 0.5], "events": events}})


def test_they_join_slow_down_and_die_at_their_times() -> None:
    config = recipe(
        {"at_s": 1.0, "worker": 2, "what": "joins"},
        {"at_s": 2.0, "worker": 1, "what": "slows", "speed": 0.25},
        {"at_s": 3.0, "worker": 2, "what": "dies"},
    )
    cluster, made = Cluster(config.virtual, lease_s=1.0, seed=0), dict[int, Seen]()

    def worker_of(number: int) -> Seen:
        made[number] = Seen(cluster, speed_of(config, number))
        return made[number]

    populate(cluster, config, worker_of)
    assert sorted(made) == [1, 3] and (made[1].speed, made[3].speed) == (2.0, 1.0)
    cluster.advance(2.5)
    assert made[1].speed == 0.25 and made[2].speed == 0.5
    cluster.advance(2.5)
    assert made[2].seen == [("is there", 1.0), ("looks", 1.0), ("dies", 3.0)]


def test_the_death_of_a_trainer_ends_what_it_does_at_its_time() -> None:
    config = recipe({"at_s": 1.5, "what": "trainer_dies", "down_s": 4.0})
    cluster = Cluster(config.virtual, lease_s=1.0, seed=0)
    populate(cluster, config, lambda number: Seen(cluster, 1.0))
    with pytest.raises(TrainerDied) as death:
        cluster.advance(3.0)
    assert cluster.now == 1.5 and death.value.down_s == 4.0
    assert not isinstance(death.value, Exception), "errors of attacks are caught"
