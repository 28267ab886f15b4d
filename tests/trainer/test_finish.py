"""Which weights attack a ticket with a fresh finish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.errors import UsageError
from sparring.queue.messages import Finish, Key
from sparring.trainer.experiment import build_experiment
from sparring.trainer.finish import Heads
from sparring.trainer.learner import Learner
from sparring.workers.task import Task
from tests.support.runs import assert_a_resume_changes_nothing, small


def heads(root: Path, **groups: Any) -> Heads:
    config = small(root, engine="sync", **{"staleness": {"finish": 2, "lead": 2}, **groups})
    return Heads(Learner(build_experiment(config), torch.device("cpu")))


def test_a_ticket_names_the_step_that_trains_on_it_and_the_weights_of_its_head(tmp_path: Path) -> None:
    """1,437 digits in tickets of 64 are 23; steps of 4 of them are 6 an epoch. ε grows over half an epoch: 3 steps."""
    made = heads(tmp_path, train={"epochs": 2, "max_steps": None, "shards_per_step": 4})
    found = [made.of(Key(*key, 0)) for key in ((0, 0), (0, 7), (0, 22), (1, 3))]
    assert [(head, finish.version) for head, finish in found] == [(0, 0), (0, 1), (3, 5), (4, 6)]
    assert [round(finish.epsilon, 6) for _, finish in found] == [0.066667, 0.133333, 0.2, 0.2]


def test_shards_are_rounded_as_on_their_way_through_the_queue(tmp_path: Path) -> None:
    made = heads(tmp_path, attack={"warmup_epochs": 0})
    made.remember()
    (shard,) = made.attack(made.finisher(), [Task(Key(0, 0, 0), (1, 2, 3))])
    steps = shard.delta * 127 / 0.2
    assert shard.delta.any() and torch.allclose(steps, steps.round(), atol=1e-4)
    assert made.of(Key(0, 0, 0))[1] == Finish(0, 0.2)


@pytest.mark.parametrize("lead", [1, 3])
def test_a_resume_goes_on_to_the_same_weights(tmp_path: Path, lead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"finish": 1, "lead": lead}
    assert_a_resume_changes_nothing(tmp_path, monkeypatch, engine="sync", staleness=settings)


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ({"engine": "ddp", "train": {"shards_per_step": 2}}, "engine = 'ddp'"),
        ({"engine": "simulated"}, "engine = 'simulated'"),
        ({"attack": {"restarts": 2}}, "attack.restarts = 2"),
        ({"attack": {"start": "previous"}}, "attack.start = 'previous'"),
        ({"allocator": {"name": "bullettrain", "slots": 8}}, "allocator.slots = 8"),
        ({"staleness": {"publish_every": 2}}, "staleness.publish_every = 2"),
        ({"staleness": {"refresh": 1}}, "staleness.refresh = 1"),
        ({"staleness": {"lockstep": True}}, "staleness.lockstep = True"),
        ({"staleness": {"depth": 2}}, "staleness.depth = 2"),
        ({"staleness": {"age_half_life": 3}}, "staleness.age_half_life = 3"),
        ({"engine": "ray", "staleness": {"max_staleness": 1}}, "staleness.max_staleness = 1"),
    ],
)
def test_what_would_leave_the_weights_of_a_step_open_is_refused(
    tmp_path: Path, groups: dict[str, Any], named: str
) -> None:
    from sparring.commands.combinations import check_combinations

    staleness = {"finish": 2, "lead": 2, **groups.get("staleness", {})}
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        check_combinations(small(tmp_path, **{"engine": "sync", **groups, "staleness": staleness}))
