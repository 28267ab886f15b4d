"""What an engine of one process has trained on is kept so that a resume continues with the next step."""

from __future__ import annotations

from itertools import islice

import pytest

from sparring.queue.messages import Key
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.plan import Plan
from sparring.trainer.steps import Consumed, Step, consumed_by


def steps_of(plan: Plan, consumed: Consumed) -> list[tuple[tuple[Key, ...], int]]:
    """What is left, by batch and replay."""
    batches = plan.steps(consumed.epoch, consumed.done)
    every = [(tuple(keys), replay) for keys in batches for replay in range(plan.replays)]
    return every[consumed.replay :]


@pytest.mark.parametrize("replays", [1, 3])
def test_whenever_it_is_saved_a_resume_makes_exactly_the_steps_that_are_left(replays: int) -> None:
    plan = Plan(20, 4, 2, 2, 0, replays=replays)  # 5 tickets an epoch: the last step of an epoch has one
    every = steps_of(plan, Consumed())
    assert len(every) == 2 * 3 * replays
    for made in range(len(every)):
        consumed = Consumed()
        for keys, replay in islice(every, made):
            consumed.add(Step(keys, replay), replays)
        again = consumed_by(Checkpoint(made, {}, consumed.state(), {}), plan.shards_by_epoch)
        assert steps_of(plan, again) == every[made:]


def test_what_goes_on_does_not_change_the_checkpoint_that_it_began_from() -> None:
    kept = Checkpoint(1, {}, {"epoch": 0, "done": {"0": [0]}, "set_aside": {}, "replay": 0}, {})
    consumed_by(kept, (2,)).add(Step((Key(0, 1, 0),)), 1)
    assert kept.ledger["done"] == {"0": [0]}


def test_without_a_checkpoint_it_begins_at_the_beginning() -> None:
    assert consumed_by(None, (2,)) == Consumed(0, {}, 0)


def test_tickets_that_an_asynchronous_run_has_set_aside_are_made_first() -> None:
    ledger = {"epoch": 2, "done": {"2": [1]}, "set_aside": {"0": [3]}}
    consumed = consumed_by(Checkpoint(9, {}, ledger, {}), (5, 5, 3))
    plan = Plan(20, 4, 2, 2, 0)
    left = [number for keys in plan.steps(consumed.epoch, consumed.done) for number in keys]
    assert left == [Key(0, 3, 0)]
    consumed.add(Step((Key(0, 3, 0),)), 1)
    assert consumed.epoch == 0 and set(consumed.done["0"]) == set(range(5)) and set(consumed.done["1"]) == set(range(5))
    consumed.add(Step((Key(2, 0, 0),)), 1)
    assert consumed.done == {"2": [1, 0]}
