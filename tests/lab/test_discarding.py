"""An engine that throws late work away: what its ledger lets go, and what is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparring.lab.discarding import DiscardingLedger, shares
from sparring.lab.study import Point
from sparring.lab.work import Place, measure
from sparring.queue.messages import Key
from sparring.runs import lines_of
from tests.support.studies import DIGITS

SLOW: dict[str, Any] = {
    **DIGITS,
    "attack.steps": 4,
    "data.limit": 128,
    "train.max_steps": 12,
    "train.epochs": 8,
    "train.batch_size": 8,
    "train.shards_per_step": 4,
    "allocator.name": "bullettrain",
    "staleness.trainer_attacks": "never",
    "workers.count": 12,
    "virtual.attack_example_s": 1e-3,
    "virtual.step_example_s": 1e-5,
}
del SLOW["engine"]


def test_a_late_shard_is_let_go_and_its_ticket_never_comes_again() -> None:
    ledger = DiscardingLedger(shards_by_epoch=[3], shards_per_step=1, depth=3, max_staleness=4)
    ledger.bound = 1
    first, second, third = ledger.issue()
    ledger.arrive(first, 0)
    ledger.arrive(second, 3)
    taken = ledger.take(3)
    assert taken is not None and (taken.keys, taken.dropped) == ((second,), (first,))
    ledger.retire(taken.keys)
    assert ledger.issue() == [] and ledger.outstanding == 1, "only the third is left"
    ledger.arrive(third, 0)
    taken = ledger.take(4)
    assert taken is not None and (taken.keys, taken.dropped) == ((), (Key(0, 2, 0),)) and ledger.finished


def test_shares_by_hand() -> None:
    trained, let_go = Counter(outlier=1, boundary=2, robust=5), Counter(boundary=2)
    assert shares(trained, let_go) == {
        "late": 0.2,
        "late_boundary": 0.5,
        "late_outlier": 0.0,
        "late_robust": 0.0,
        "boundary_attacked": 0.4,
        "boundary_trained": 0.25,
    }


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"staleness.max_staleness": 3, "staleness.exchange": False}, {}),
        ({"staleness.max_staleness": 9, "staleness.depth": 8, "staleness.exchange": False}, {"discard_above": 3}),
    ],
)
def test_an_engine_with_permits_trains_on_all_and_one_without_on_what_is_early(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    place, point = Place(None, tmp_path), Point("discard", {}, {**SLOW, **settings}, options)
    (tmp_path / point.key).mkdir()  # of an earlier attempt
    found = measure(point, place)
    assert found["steps"] == 12 and 0 < found["staleness_mean"] <= 3 and (found["late"] > 0 or not options)
    assert 0 <= found["robust_accuracy"] <= found["clean_accuracy"]
    trained: dict[int, set[int]] = {}
    for line in lines_of(place.run_of(point).history):
        trained.setdefault(line["epoch"], set()).update(line["tickets"])
    ended = [tickets for epoch, tickets in trained.items() if epoch != max(trained)]
    assert all(len(tickets) == 16 for tickets in ended) is not bool(options), "what is thrown away is never trained on"
