"""The ledger's invariants (docs/architecture.md): the bound is never crossed, every ticket is consumed exactly once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparring.queue.ledger import Ledger, divided
from sparring.queue.messages import Key


def ledger(**changes: Any) -> Ledger:
    options: dict[str, Any] = {
        "shards_by_epoch": (5, 5),
        "shards_per_step": 2,
        "depth": 1,
        "max_staleness": 2,
    }
    return Ledger(**{**options, **changes})


def test_permits_are_those_of_the_next_steps_and_walk_across_epochs() -> None:
    one = ledger(depth=2)
    assert one.permits() == 2 + 2 + 1
    assert one.issue() == [Key(0, number, 0) for number in range(5)]
    assert one.issue() == []
    for key in (Key(0, 0, 0), Key(0, 1, 0)):
        one.arrive(key, 0)
    taken = one.take(0)
    assert taken is not None and one.issue() == []  # outstanding until the step has ended
    one.retire(taken.keys)
    assert one.permits() == 2 + 1 + 2
    assert one.issue() == [Key(1, 0, 0), Key(1, 1, 0)]


def test_the_lowest_version_is_consumed_first() -> None:
    one = ledger(depth=2)
    for key, version in zip(one.issue(), (2, 1, 2, 0, 2), strict=True):
        one.arrive(key, version)
    taken = one.take(2)
    assert taken is not None and [key.number for key in taken.keys] == [3, 1]


def test_in_order_waits_for_the_lowest_ticket() -> None:
    one = ledger(depth=2, in_order=True)
    keys = one.issue()
    for key in keys[1:]:
        one.arrive(key, 0)
    assert one.take(0) is None
    one.arrive(keys[0], 0)
    taken = one.take(0)
    assert taken is not None and taken.keys == (keys[0], keys[1])


def test_a_step_takes_as_much_of_every_trainers_part() -> None:
    one = ledger(depth=2, shards_by_epoch=(6, 6), parts=2)
    keys = one.issue()
    for key in (keys[0], keys[2], keys[4]):
        one.arrive(key, 0)
    assert one.take(0) is None, "all three are of part 0"
    one.arrive(keys[5], 0)
    taken = one.take(0)
    assert taken is not None and [key.number for key in taken.keys] == [0, 5]


def test_what_is_left_of_one_part_alone_is_taken_all_the_same() -> None:
    one = ledger(shards_by_epoch=(6,), parts=2)
    one.restore(0, {"0": [1, 3, 5]}, {})  # as another number of trainers left it
    for key in one.issue():
        one.arrive(key, 0)
    taken = one.take(0)
    assert taken is not None and [key.number for key in taken.keys] == [0, 2]
    assert divided(4, [5, 1]) == [3, 1] and divided(3, [4, 4]) == [2, 1] and divided(2, [0, 1]) == [0, 1]


def test_a_shard_at_the_bound_is_consumed_and_one_beyond_it_is_issued_again() -> None:
    one = ledger(depth=2)
    keys = one.issue()
    for key, version in zip(keys, (1, 2, 3, 3, 3), strict=True):
        one.arrive(key, version)
    taken = one.take(4)
    assert taken is not None
    assert taken.dropped == (keys[0],) and keys[1] in taken.keys
    assert one.dropped["stale"] == 1
    assert Key(0, 0, 1) in one.issue()


def test_a_late_arrival_is_superseded() -> None:
    one = ledger()
    late = one.issue()[0]
    assert one.lose(late)
    again = one.issue()[-1]
    assert again == Key(0, late.number, 1)
    assert one.arrive(late, 0) == "superseded"
    assert one.arrive(again, 0) == "accepted"
    assert one.arrive(again, 0) == "superseded"
    assert not one.lose(again) and not one.fail(late, "w", "E")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([("a", "E"), ("b", "E"), ("a", "E")], 3),
        ([("a", "E")] * 6, 6),
        ([("a", "E"), ("b", "E"), ("a", "F"), ("b", "E"), ("a", "E"), ("b", "E")], 6),
        ([("a", "E"), ("a", "E"), ("a", "E"), ("b", "E")], 4),
    ],
)
def test_a_ticket_is_set_aside_that_fails_alike_on_several_workers_or_twice_as_often(
    failures: list[tuple[str, str]], expected: int
) -> None:
    one = ledger(shards_by_epoch=(1,), shards_per_step=1, attempts=3)
    for attempt, (worker, kind) in enumerate(failures[:expected]):
        assert one.set_aside == [] and one.issue() == [Key(0, 0, attempt)]
        assert one.fail(Key(0, 0, attempt), worker, kind)
    assert one.set_aside == [Key(0, 0, expected - 1)] and one.issue() == [] and one.finished
    assert one.dropped["failed"] == expected


@pytest.mark.parametrize("reason", ["lease_expired", "handed_back", "queue_full", "payload_corrupt"])
def test_an_attempt_that_is_lost_otherwise_costs_the_ticket_nothing(reason: str) -> None:
    one = ledger(attempts=1)
    for attempt in range(5):
        (key,) = (key for key in one.issue() if key.number == 0)
        assert key.attempt == attempt and one.lose(key, reason)
    assert one.set_aside == [] and one.dropped[reason] == (0 if reason == "handed_back" else 5)


def test_a_resume_makes_what_was_set_aside_first() -> None:
    one, again = ledger(attempts=1, shards_by_epoch=(3, 3)), ledger(attempts=1, shards_by_epoch=(3, 3))
    while one.epoch == 0:
        for key in one.issue():
            poisoned = key.number == 1 and key.epoch == 0
            assert one.fail(key, "w", "E") if poisoned else one.arrive(key, 0)
        taken = one.take(0)
        if taken is not None:
            one.retire(taken.keys)
    assert [key[:2] for key in one.set_aside] == [(0, 1)]
    restore(again, one.state())
    assert again.epoch == 0 and again.set_aside == [] and again.issue()[0] == Key(0, 1, 0)


def test_a_shard_of_weights_that_do_not_exist_yet_is_not_trained_on() -> None:
    one = ledger(depth=2)
    keys = one.issue()
    for key, version in zip(keys, (71, 3, 4, 4, 4), strict=True):
        one.arrive(key, version)
    taken = one.take(4)
    assert taken is not None and taken.dropped == (keys[0],) and keys[0] not in taken.keys
    assert one.dropped["ahead"] == 1 and one.dropped["stale"] == 0 and Key(0, 0, 1) in one.issue()


def test_a_checkpoint_counts_what_the_weights_hold_before_the_step_has_ended() -> None:
    one, again = ledger(), ledger()
    for key in one.issue():
        one.arrive(key, 0)
    taken = one.take(0)
    assert taken is not None
    one.trained(taken.keys)
    assert one.consuming == 2
    restore(again, one.state())
    assert again.issue()[0].number == 2
    one.retire(taken.keys)
    assert one.consuming == 0


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    one, sizes = ledger(), []
    while not one.finished:
        for key in one.issue():
            one.arrive(key, 0)
        taken = one.take(0)
        assert taken is not None
        sizes.append(len(taken.keys))
        one.retire(taken.keys)
    assert sizes == [2, 2, 1, 2, 2, 1]


def test_nothing_is_issued_beyond_the_barrier_before_it_is_lifted() -> None:
    one = ledger(shards_by_epoch=(3, 1), depth=2, barrier=1)
    keys = one.issue(in_flight=10)
    assert [key.epoch for key in keys] == [0, 0, 0]
    for key in keys:
        one.arrive(key, 0)
    while (taken := one.take(0)) is not None:
        assert not one.held
        one.retire(taken.keys)
    assert one.held and one.issue(in_flight=10) == [] and one.permits() == 0
    one.lift()
    assert not one.held and one.issue() == [Key(1, 0, 0)]


def test_less_in_flight_does_not_starve_the_epoch_that_is_trained() -> None:
    one = ledger(shards_by_epoch=(2, 2))
    keys = one.issue(in_flight=10)
    for key in keys[1:]:
        one.arrive(key, 0)
    one.lose(keys[0])
    assert one.issue(in_flight=0) == [Key(0, 0, 1)]


def test_without_depth_a_whole_step_is_still_permitted() -> None:
    assert len(ledger(depth=0).issue(in_flight=1)) >= 2


def test_what_a_step_under_way_consumed_is_pending_after_a_resume() -> None:
    one, again = ledger(), ledger()
    for key in one.issue():
        one.arrive(key, 0)
    taken = one.take(0)
    assert taken is not None and one.consuming == 2
    restore(again, one.state())
    assert [key.number for key in again.issue()][:2] == [key.number for key in taken.keys]
    one.retire(taken.keys)
    restore(again, one.state())
    assert one.consuming == 0 and again.issue()[0].number == 2


def test_going_back_in_one_ledger_forgets_what_was_set_aside_since() -> None:
    one = ledger(attempts=1)
    state = one.state()
    for _ in range(2):
        one.fail(one.issue()[0], "w", "E")
    assert one.set_aside
    restore(one, state)
    assert one.set_aside == []


def test_of_two_attempts_at_a_ticket_the_first_shard_counts() -> None:
    one = ledger(in_order=True, shards_by_epoch=(4,))
    first, second, *later = one.issue()
    one.arrive(second, 0)
    (copy,) = one.copies()
    assert copy == Key(0, 0, 1) and one.copies() == [], "each ticket is issued twice at most"
    assert set(one.issued) == {first, copy, *later} and one.outstanding == 4
    assert one.arrive(first, 0) == "accepted" and one.arrive(copy, 0) == "superseded"
    taken = one.take(0)
    assert taken is not None and taken.keys == (first, second) and one.dropped == {"superseded": 1}


def test_the_copy_may_be_first_and_a_stale_shard_is_a_third_attempt() -> None:
    one = ledger(in_order=True, max_staleness=0, depth=0)
    first, second = one.issue()
    copies = one.copies()
    assert copies == [Key(0, 0, 1), Key(0, 1, 1)]
    assert one.arrive(copies[0], 0) == one.arrive(second, 0) == "accepted"
    taken = one.take(1)
    assert taken is not None and taken.dropped == (copies[0], second) and not taken.keys
    assert one.arrive(first, 1) == "superseded"
    assert one.issue() == [Key(0, 0, 2), Key(0, 1, 2)]


def test_a_ticket_goes_on_while_one_of_its_attempts_is_left() -> None:
    one = ledger(in_order=True, attempts=1)
    first, second, *_ = one.issue()
    one.arrive(second, 0)
    (copy,) = one.copies()
    assert one.fail(first, "a", "E") and one.fail(first, "a", "E") is False
    assert one.issued[0] == copy and one.issue() == [] and not one.set_aside
    assert one.lose(copy) and one.issue() == [Key(0, 0, 2)]


def test_nothing_is_copied_while_the_step_waits_for_a_ticket_that_nobody_has_or_trains() -> None:
    one = ledger(in_order=True)
    first, second, *_ = one.issue()
    one.lose(first)
    assert one.copies() == []
    again = one.issue()[0]
    for key in (again, second):
        one.arrive(key, 0)
    assert one.copies() == [] and one.take(0) is not None and one.copies() == []


def restore(one: Ledger, state: Any) -> None:
    one.restore(state["epoch"], state["done"], state["set_aside"])


class Life(RuleBasedStateMachine):
    """A run with everything that can go wrong; `history` is what the surviving weights have trained on."""

    @initialize(
        shards=st.lists(st.integers(1, 7), min_size=1, max_size=3),
        barrier=st.none() | st.integers(1, 2),
        per_step=st.integers(1, 4),
        depth=st.integers(0, 3),
        bound=st.integers(0, 4),
        parts=st.integers(1, 3),
        attempts=st.integers(1, 3),
        in_order=st.booleans(),
        in_flight=st.sampled_from(["never", "fixed", "varies"]),
    )
    def start(
        self,
        shards: list[int],
        barrier: int | None,
        per_step: int,
        depth: int,
        bound: int,
        parts: int,
        attempts: int,
        in_order: bool,
        in_flight: str,
    ) -> None:
        self.options: dict[str, Any] = {
            "shards_by_epoch": shards,
            "barrier": barrier,
            "shards_per_step": per_step,
            "depth": min(depth, bound),
            "max_staleness": bound,
            "parts": parts,
            "attempts": attempts,
            "in_order": in_order and in_flight == "never",
        }
        self.varies = in_flight == "varies"
        self.in_flight = None if in_flight == "never" else 3
        self.begin(Ledger(**self.options), step=0, history=[])
        self.save()

    def begin(self, one: Ledger, step: int, history: list[tuple[int, int]]) -> None:
        self.ledger, self.step, self.history = one, step, history
        self.air: dict[Key, int] = {}
        self.gone: list[Key] = []
        self.training: tuple[Key, ...] = ()

    @rule(more=st.integers(0, 12))
    def issue(self, more: int) -> None:
        if self.varies:
            self.in_flight = more
        before = self.ledger.outstanding
        keys = self.ledger.issue(self.in_flight)
        assert not set(keys) & set(self.air)
        if not self.varies:
            assert self.ledger.outstanding <= max(before, self.permitted())
        self.air.update(dict.fromkeys(keys, self.step))

    @rule()
    def what_is_late_is_issued_twice(self) -> None:
        before = self.ledger.outstanding
        keys = self.ledger.copies()
        assert not set(keys) & {*self.air, *self.gone} and self.ledger.outstanding == before
        assert all(sum(key[:2] == each[:2] for each in self.air) == 1 for key in keys)
        self.air.update(dict.fromkeys(keys, self.step))

    @precondition(lambda self: self.ledger.held)
    @rule()
    def lift(self) -> None:
        assert self.ledger.outstanding == 0 and self.ledger.issue(self.in_flight) == []
        self.ledger.lift()

    @precondition(lambda self: self.air)
    @rule(data=st.data())
    def a_shard_comes(self, data: st.DataObject) -> None:
        self.comes(data.draw(st.sampled_from(sorted(self.air))), 0)

    @precondition(lambda self: self.air)
    @rule(data=st.data(), steps=st.integers(1, 3))
    def a_shard_of_another_life_comes(self, data: st.DataObject, steps: int) -> None:
        self.comes(data.draw(st.sampled_from(sorted(self.air))), steps + self.step)

    @precondition(lambda self: self.air)
    @rule(data=st.data(), kind=st.sampled_from(["expired", "handed_back", "a", "b"]))
    def a_worker_is_lost_or_stops_or_fails(self, data: st.DataObject, kind: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.air)))
        del self.air[key]
        self.gone.append(key)
        assert self.ledger.fail(key, kind, "E") if kind in ("a", "b") else self.ledger.lose(key, kind)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def what_is_over_changes_nothing(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.gone))
        before = self.ledger.outstanding, self.ledger.ready, self.ledger.state()
        assert self.ledger.arrive(key, self.step) == "superseded"
        assert not self.ledger.lose(key) and not self.ledger.fail(key, "a", "E")
        assert before == (self.ledger.outstanding, self.ledger.ready, self.ledger.state())

    @precondition(lambda self: not self.training)
    @rule()
    def take(self) -> None:
        versions = {key: version for key, version in self.versions().items() if key.epoch == self.ledger.epoch}
        epoch, left = self.ledger.epoch, self.left_in_epoch()
        taken = self.ledger.take(self.step)
        if taken is None:
            return
        for key in taken.dropped:
            assert not 0 <= self.step - versions[key] <= self.options["max_staleness"]
        if taken.keys:
            assert {key.epoch for key in taken.keys} == {epoch}
            assert len(taken.keys) == min(self.options["shards_per_step"], left)
            assert all(0 <= self.step - versions[key] <= self.options["max_staleness"] for key in taken.keys)
            self.history += [(key.epoch, key.number) for key in taken.keys]
            self.training = taken.keys
            self.step += 1

    @precondition(lambda self: self.training)
    @rule()
    def the_step_ends(self) -> None:
        self.ledger.retire(self.training)
        self.training = ()

    @precondition(lambda self: not self.training)
    @rule()
    def save(self) -> None:
        self.saved = json.dumps(self.ledger.state()), self.step, list(self.history), self.ledger.barrier

    @rule(same=st.booleans(), parts=st.integers(1, 3))
    def the_trainer_resumes(self, same: bool, parts: int) -> None:
        """With another number of trainers, where its process is another one."""
        state, step, history, barrier = self.saved
        one = self.ledger if same else Ledger(**{**self.options, "parts": parts})
        one.barrier = barrier
        restore(one, json.loads(state))
        self.begin(one, step, list(history))

    @rule()
    def the_queue_is_lost(self) -> None:
        self.ledger.reissue_everything()
        self.gone += self.air
        self.air.clear()

    @rule(steps=st.integers(1, 3))
    def time_passes(self, steps: int) -> None:
        """Steps that other work would make: what waits becomes stale."""
        self.step += steps

    @invariant()
    def every_ticket_is_consumed_once_at_most_and_permits_are_kept(self) -> None:
        assert len(self.history) == len(set(self.history))
        if self.ledger.barrier is not None:
            assert all(key.epoch < self.ledger.barrier for key in self.air)
        if not self.varies:
            assert self.ledger.outstanding <= self.permitted()

    def teardown(self) -> None:
        """Whatever has happened, the run can be driven to its end, and then every ticket was consumed once."""
        if not hasattr(self, "ledger"):
            return
        if self.training:
            self.the_step_ends()
        for _ in range(200):
            if self.ledger.finished:
                break
            if self.ledger.held:
                self.lift()
            self.air.update(dict.fromkeys(self.ledger.issue(0 if self.varies else self.in_flight), self.step))
            while self.air:
                self.comes(min(self.air), self.step - self.air[min(self.air)])
            self.take()
            if self.training:
                self.the_step_ends()
        assert self.ledger.finished and self.ledger.outstanding == 0
        aside = [(key.epoch, key.number) for key in self.ledger.set_aside]
        every = [(epoch, n) for epoch, shards in enumerate(self.options["shards_by_epoch"]) for n in range(shards)]
        assert sorted(set(self.history) | set(aside)) == every
        assert not set(self.history) & set(aside)

    def comes(self, key: Key, ahead: int) -> None:
        """A shard comes; any other attempt at its ticket is then over."""
        assert self.ledger.arrive(key, self.air.pop(key) + ahead) == "accepted"
        others = [each for each in self.air if each[:2] == key[:2]]
        for each in others:
            del self.air[each]
        self.gone += [key, *others]

    def permitted(self) -> int:
        return self.ledger.permits(self.in_flight)

    def versions(self) -> dict[Key, int]:
        return {
            Key(index, number, epoch.came[number]): version
            for index, epoch in self.ledger._open.items()
            for number, version in epoch.ready.items()
        }

    def left_in_epoch(self) -> int:
        if self.ledger.finished:
            return 0
        epoch = self.ledger._open.get(self.ledger.epoch)
        return self.options["shards_by_epoch"][self.ledger.epoch] if epoch is None else epoch.unconsumed


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestLife = Life.TestCase
