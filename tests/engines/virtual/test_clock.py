"""The clock alone tells the seconds and the staleness of the virtual engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands.train import train
from sparring.config import Config
from sparring.engines.virtual.clock import clocked
from sparring.engines.virtual.hollow import Work
from sparring.errors import SparringError, UsageError
from tests.support.runs import small

BATCH, SHARDS, STEPS = 16, 40, 4
FINISH, LOOSE, PLAIN = {"finish": 2}, {"depth": 2}, {"depth": 2, "exchange": False, "publish_every": 2}
COPIES = {**FINISH, "copy_after": 2.0}
DIES = [{"at_s": 0.5, "worker": 1, "what": "dies"}, {"at_s": 0.9, "worker": 3, "what": "joins"}]
SLOWS = [{"at_s": 0.3, "worker": 2, "what": "slows", "speed": 0.4}]


def recipe(root: Path, **groups: Any) -> Config:
    tree: dict[str, Any] = {
        "engine": "virtual",
        "data": {"limit": BATCH * SHARDS},
        "attack": {"steps": STEPS},
        "train": {"epochs": 1, "max_steps": None, "batch_size": BATCH, "shards_per_step": 4},
        "queue": {"lease_s": 0.5},
        "staleness": {"trainer_attacks": "always"},
        "virtual": {"jitter": 0.0, "attack_s": 0.003, "step_s": 0.004, "load_s": 0.002},
    }
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values}
    return small(root, **tree)


@pytest.mark.parametrize(
    "groups",
    [
        {"staleness": FINISH, "workers": {"count": 3}},
        {"staleness": FINISH, "workers": {"count": 2}, "trainer": {"count": 3}, "virtual": {"speeds": [1, 0.3]}},
        {"staleness": FINISH, "workers": {"count": 0}, "trainer": {"count": 4}, "queue": {"lease_s": 0.2}},
        {"staleness": FINISH, "workers": {"count": 3}, "trainer": {"count": 2}, "virtual": {"events": DIES}},
        {"staleness": COPIES, "workers": {"count": 3}, "trainer": {"count": 2}, "virtual": {"events": DIES}},
        {"staleness": COPIES, "workers": {"count": 3}, "virtual": {"speeds": [1, 0.1]}},
        {"staleness": LOOSE, "workers": {"count": 4}, "virtual": {"events": SLOWS}},
        {"staleness": PLAIN, "workers": {"count": 3}, "trainer": {"count": 2}},
        {"staleness": {"max_staleness": 0, "depth": 0}, "workers": {"count": 2}},
    ],
)
def test_it_is_that_of_the_engine(tmp_path: Path, groups: dict[str, Any]) -> None:
    config = recipe(tmp_path, **groups)
    made = train(config, progress=False)
    size_bytes = 4 * sum(each.numel() for each in made.load_model().parameters())
    found = clocked(config, [Work(BATCH, (BATCH,) * STEPS)] * SHARDS, size_bytes)
    latencies = config.virtual.publish_s + config.virtual.push_s  # the run's clock begins with its first attack
    assert made.summary["seconds"] == pytest.approx(found.seconds, abs=1.5 * latencies)
    assert made.summary["staleness_mean"] == pytest.approx(sum(found.staleness) / SHARDS, abs=0.1)


def test_a_dead_cluster_is_an_error(tmp_path: Path) -> None:
    dies = {"events": [{"at_s": 0.01, "worker": 1, "what": "dies"}]}
    config = recipe(tmp_path, workers={"count": 1}, virtual=dies, staleness={"trainer_attacks": "never"})
    with pytest.raises(SparringError, match=r"trainer\.wait_timeout_s"):
        clocked(config, [Work(BATCH, (BATCH,) * STEPS)] * SHARDS)


def test_it_has_no_checkpoints_that_a_trainer_could_go_on_from(tmp_path: Path) -> None:
    config = recipe(tmp_path, virtual={"events": [{"at_s": 0.1, "what": "trainer_dies"}]})
    with pytest.raises(UsageError, match=r"trainer_dies.*sparring train --engine virtual"):
        clocked(config, [Work(BATCH, (BATCH,) * STEPS)] * SHARDS)
