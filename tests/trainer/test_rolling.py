"""What is known of a judged version, the best one, and when there is enough."""

from __future__ import annotations

import pytest

from sparring.evaluation.robustness import interval
from sparring.trainer.rolling import RollingMonitor, RollingVerdict


def judged(version: int, robust: int) -> RollingVerdict:
    made = RollingVerdict(1, version, (4, 4, 2))
    for number, count in enumerate((4, 4, 2)):
        made.add(number, count, min(count, robust))
        robust -= min(count, robust)
    return made


def test_a_judgement_is_partial_with_its_count_until_all_pieces_are_judged() -> None:
    made = RollingVerdict(1, 7, (4, 4, 2))
    made.add(2, 2, 1)
    assert made.open == [0, 1] and not made.complete and made.samples == 2
    assert made.figures() == {
        "clean_accuracy": 1.0,
        "robust_accuracy": 0.5,
        "robust_interval": interval(1, 2),
        "samples": 2,
        "of": 10,
        "complete": False,
    }
    made.add(0, 3, 2)
    made.add(0, 4, 4)  # the same piece once more
    made.add(1, 4, 1)
    assert made.complete and (made.samples, made.clean, made.robust) == (10, 9, 4)


def test_the_best_is_kept_and_patience_counts_what_is_not_better() -> None:
    monitor = RollingMonitor(2, "all")
    assert monitor.conclude(judged(10, 5)) and not monitor.conclude(judged(20, 5)) and not monitor.enough
    assert monitor.conclude(judged(30, 6)) and monitor.since_best == 0
    assert not monitor.conclude(judged(40, 2)) and not monitor.enough
    assert not monitor.conclude(judged(50, 6)) and monitor.enough
    assert (monitor.best, monitor.best_version) == (0.6, 30)
    assert not RollingMonitor(None, "all").enough


@pytest.mark.parametrize(("identity", "kept"), [("all", 0.5), ("others", -1.0)])
def test_a_resume_goes_on_unless_other_examples_are_judged(identity: str, kept: float) -> None:
    before, after = RollingMonitor(1, "all"), RollingMonitor(1, identity)
    before.conclude(judged(10, 5))
    before.conclude(judged(20, 4))
    after.restore(before.state())
    assert after.best == kept and after.enough == (kept > 0)
    after.restore(None)
    assert (after.best, after.since_best) == (-1.0, 0)
