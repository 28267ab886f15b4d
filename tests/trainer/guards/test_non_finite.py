"""A loss that is not finite: how often training goes back, and at what rate it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.errors import NonFinite
from tests.support.sessions import session_in


def test_every_rollback_lowers_the_rate_until_there_are_too_many(tmp_path: Path) -> None:
    session = session_in(tmp_path, guard={"max_rollbacks": 2, "rate_factor": 0.25})
    guard, error = session.non_finite, NonFinite("loss nan at step 3.")
    for rate in (0.25, 0.0625):
        guard.require_allowed(error, tmp_path)
        guard.rolled_back()
        assert session.learner.rate_scale == rate
    with pytest.raises(
        NonFinite, match=rf"loss nan at step 3\. There were 2 rollbacks .* last checkpoint is in {tmp_path}"
    ):
        guard.require_allowed(error, tmp_path)


def test_where_it_is_to_stop_the_first_one_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"loss nan\. The last checkpoint is in"):
        session_in(tmp_path, guard={"non_finite": "stop"}).non_finite.require_allowed(NonFinite("loss nan."), tmp_path)


def test_a_rollback_to_an_earlier_checkpoint_takes_neither_count_nor_rate_back(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    guard, before = session.non_finite, session.non_finite.state()
    guard.rolled_back()
    guard.rolled_back()
    after = guard.state()
    guard.restore(before)
    assert guard.state() == after == {"rollbacks": 2, "rate_scale": 0.25}
    fresh = session_in(tmp_path).non_finite
    fresh.restore(after)
    assert fresh.state() == after, "a resume in a new process"
