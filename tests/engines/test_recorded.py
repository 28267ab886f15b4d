"""What a history says of each step; the weights that come of it are compared in commands/test_replay.py."""

from __future__ import annotations

import pytest

from sparring.engines.recorded import MadeBy, oldest_needed, steps_of
from sparring.errors import SparringError
from sparring.queue.messages import Key


def line(step: int, ticket: int, made_by: list[object]) -> dict[str, object]:
    return {"step": step, "epoch": 1, "tickets": [ticket], "workers": ["worker-0"], "made_by": [made_by]}


def test_of_a_step_that_was_repeated_the_last_line_counts() -> None:
    found = steps_of([line(1, 7, [0, [0, 2]]), line(2, 8, [0, [0, 1], [1, 1]]), line(2, 9, [1, [1, 2]])])
    assert found == {
        1: [MadeBy(Key(1, 7, 0), "worker-0", 0, ((0, 2),))],
        2: [MadeBy(Key(1, 9, 0), "worker-0", 1, ((1, 2),))],
    }


def test_a_checkpoint_will_do_where_nothing_later_needs_older_weights() -> None:
    steps = steps_of([line(1, 0, [0]), line(2, 1, [0]), line(3, 2, [2]), line(4, 3, [2])])
    assert [oldest_needed(steps, after) for after in (0, 1, 2, 3, 4)] == [0, 0, 2, 2, 4]


def test_an_older_history_is_refused() -> None:
    old = line(3, 0, [0])
    del old["made_by"]
    with pytest.raises(SparringError, match="which weights made the attacks of step 3"):
        steps_of([old])
