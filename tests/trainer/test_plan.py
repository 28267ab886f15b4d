"""Every epoch is a permutation of the training set, trained on exactly once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.config import from_tree
from sparring.errors import SparringError, UsageError
from sparring.trainer.plan import Plan, Pruning, planned

SIZES = [(10, 3, 1), (12, 3, 2), (13, 4, 3), (5, 8, 1), (64, 8, 8), (1, 1, 1), (1437, 64, 4)]
TABLE = pytest.mark.parametrize(("size", "batch_size", "shards_per_step"), SIZES)


def plan(size: int = 100, batch_size: int = 8, shards_per_step: int = 2, epochs: int = 3, seed: int = 0) -> Plan:
    return Plan(size, batch_size, shards_per_step, epochs, seed)


def order(made: Plan, epoch: int) -> list[int]:
    return [index for number in range(made.shards(epoch)) for index in made.indices(epoch, number)]


@TABLE
def test_each_epoch_uses_every_example_exactly_once(size: int, batch_size: int, shards_per_step: int) -> None:
    made = plan(size, batch_size, shards_per_step)
    used: dict[int, Counter[int]] = {}
    for keys in made.steps():
        assert len({key.epoch for key in keys}) == 1
        for key in keys:
            used.setdefault(key.epoch, Counter()).update(made.indices(key.epoch, key.number))
    assert used == {epoch: Counter(range(size)) for epoch in range(3)}


@TABLE
def test_the_last_ticket_and_the_last_step_take_what_is_left_but_never_one_alone(
    size: int, batch_size: int, shards_per_step: int
) -> None:
    made = plan(size, batch_size, shards_per_step, epochs=1)
    lengths = [len(made.indices(0, number)) for number in range(made.shards(0))]
    rest = (size - 1) % batch_size + 1
    joined = rest == 1 < min(size, batch_size)
    assert lengths[:-1] == [batch_size] * (len(lengths) - 1) and lengths[-1] == (batch_size + 1 if joined else rest)
    assert made.smallest_ticket(0) == min(lengths)
    assert made.largest_step == batch_size * shards_per_step + joined
    steps = [len(keys) for keys in made.steps()]
    assert steps[:-1] == [shards_per_step] * (len(steps) - 1) and 1 <= steps[-1] <= shards_per_step
    assert sum(steps) == made.shards(0) and len(steps) == made.steps_of(0)


@TABLE
def test_as_many_steps_are_made_as_told(size: int, batch_size: int, shards_per_step: int) -> None:
    made = plan(size, batch_size, shards_per_step)
    assert len(list(made.steps())) == made.total_steps == 3 * made.steps_of(0)


def test_epochs_and_seeds_differ_and_the_same_seed_gives_the_same_order() -> None:
    orders = {(seed, epoch): order(plan(seed=seed), epoch) for seed in (0, 1) for epoch in range(3)}
    assert len({tuple(each) for each in orders.values()}) == 6
    assert all(sorted(each) == list(range(100)) for each in orders.values())
    assert order(plan(seed=1), 2) == orders[1, 2]


def test_the_order_depends_neither_on_the_tickets_nor_on_the_global_random_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = order(plan(101, batch_size=8), 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert order(plan(101, batch_size=25, shards_per_step=1, epochs=7), 1) == one


def test_steps_go_on_with_what_is_not_done_yet() -> None:
    made = plan(100, 8, 2)
    done = {"1": [0, 2, 3, 12]}
    rest = list(made.steps(1, done))
    first = [key.number for keys in rest for key in keys if key.epoch == 1]
    assert first == [number for number in range(13) if number not in done["1"]]
    assert [key.number for keys in rest for key in keys if key.epoch == 2] == list(range(13))
    assert not any(key.epoch == 0 for keys in rest for key in keys)


def test_a_finished_epoch_is_passed_over() -> None:
    made = plan(16, 8, 2, epochs=2)
    assert [[key.epoch for key in keys] for keys in made.steps(0, {"0": [0, 1]})] == [[1, 1]]


MIXED = st.tuples(
    st.integers(1, 40), st.integers(2, 12), st.integers(1, 50), st.floats(0.1, 0.9), st.integers(0, 3)
).filter(lambda drawn: 0 < round(drawn[3] * drawn[1]) < drawn[1])


@given(MIXED)
@settings(max_examples=25, deadline=None)
def test_extra_examples_fill_every_ticket_and_change_nothing_about_the_real_ones(
    drawn: tuple[int, int, int, float, int],
) -> None:
    size, batch_size, extra, fraction, seed = drawn
    made = Plan(size, batch_size, 2, 4, seed, extra=extra, extra_fraction=fraction)
    wanted = round(fraction * batch_size)
    seen: list[int] = []
    for epoch in range(4):
        tickets = [made.indices(epoch, number) for number in range(made.shards(epoch))]
        assert tickets == [made.indices(epoch, number) for number in range(made.shards(epoch))]
        real = [index for ticket in tickets for index in ticket if index < size]
        assert sorted(real) == list(range(size))
        for ticket in tickets:
            of_ticket = sum(index < size for index in ticket)
            assert list(ticket) == [i for i in ticket if i < size] + [i for i in ticket if i >= size]
            assert abs(len(ticket) - of_ticket - of_ticket * wanted / (batch_size - wanted)) <= 0.5
        assert all(len(ticket) == batch_size for ticket in tickets[:-1])
        seen += [index - size for ticket in tickets for index in ticket if index >= size]
    # Without replacement, from epoch to epoch: every whole pass holds each extra example once.
    for first in range(0, len(seen), extra):
        one = seen[first : first + extra]
        assert len(set(one)) == len(one) and set(one) <= set(range(extra))


def test_extra_examples_do_not_come_in_the_order_of_their_file_nor_twice_in_the_same() -> None:
    made = Plan(40, 8, 1, 8, 0, extra=10, extra_fraction=0.5)
    seen = [index - 40 for epoch in range(8) for n in range(10) for index in made.indices(epoch, n) if index >= 40]
    assert len({tuple(seen[first : first + 10]) for first in range(0, len(seen), 10)}) == 32
    other = Plan(40, 8, 1, 8, 1, extra=10, extra_fraction=0.5)
    assert other.indices(0, 0)[4:] != made.indices(0, 0)[4:]


def test_an_epoch_has_more_tickets_with_extra_examples() -> None:
    made = Plan(50_000, 512, 1, 400, 0, extra=1_000_000, extra_fraction=0.7)
    assert (made.real_per_ticket, made.extra_per_ticket) == (154, 358)
    assert made.shards(0) == made.steps_of(0) == 325 == made.total_steps // 400


def pruned(size: int, left: int, batch_size: int, shards_per_step: int, epoch: int = 2) -> Plan:
    """Four epochs; every third example or so is kept."""
    kept = torch.arange(0, size, max(1, size // left))[:left]
    return Plan(size, batch_size, shards_per_step, 4, 0, Pruning(epoch, left, kept))


PRUNED = pytest.mark.parametrize(
    ("size", "left", "batch_size", "shards_per_step"),
    [(100, 33, 8, 2), (10, 1, 3, 1), (64, 8, 8, 1), (7, 3, 16, 2), (1437, 575, 64, 4)],
)


@PRUNED
def test_from_the_epoch_of_pruning_on_what_is_kept_is_used_exactly_once_an_epoch(
    size: int, left: int, batch_size: int, shards_per_step: int
) -> None:
    made = pruned(size, left, batch_size, shards_per_step)
    assert made.pruning is not None and made.pruning.kept is not None
    used: dict[int, Counter[int]] = {}
    for keys in made.steps():
        for key in keys:
            used.setdefault(key.epoch, Counter()).update(made.indices(key.epoch, key.number))
    kept = Counter(made.pruning.kept.tolist())
    assert used == {0: Counter(range(size)), 1: Counter(range(size)), 2: kept, 3: kept}
    assert left < 8 or order(made, 2) != order(made, 3)


@PRUNED
def test_the_steps_of_a_pruned_run_are_known_before_it_is_decided_what_is_kept(
    size: int, left: int, batch_size: int, shards_per_step: int
) -> None:
    made = Plan(size, batch_size, shards_per_step, 4, 0, Pruning(2, left))
    steps = Counter(keys[0].epoch for keys in made.steps())
    assert made.total_steps == sum(steps.values()) == made.steps_until(4)
    assert [made.steps_until(epochs) for epochs in range(4)] == [
        sum(steps[epoch] for epoch in range(epochs)) for epochs in range(4)
    ]
    assert made.steps_until(2.5) == made.steps_until(2) + steps[2] / 2
    assert made.shards_by_epoch == tuple(
        sum(len(keys) for keys in made.steps() if keys[0].epoch == epoch) for epoch in range(4)
    )
    for step in range(made.total_steps + 1):
        assert made.steps_until(made.epochs_at(step)) == pytest.approx(step)


def test_a_ticket_of_a_pruned_epoch_has_no_examples_before_it_is_decided_which() -> None:
    made = Plan(100, 8, 2, 4, 0, Pruning(2, 40))
    assert len(made.indices(1, 0)) == 8
    with pytest.raises(SparringError, match="before pruning has decided"):
        made.indices(2, 0)


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({"epoch": 3}, 100, r"pruning.epoch = 3 of 3 epochs .*: pruning.epoch < 3 fails"),
        ({"share": 0.9}, 3, r"pruning.share = 0.9 of 3 training examples drops 3 of them"),
        ({"share": 0.1}, 3, r"pruning.share = 0.1 of 3 training examples drops 0 of them"),
    ],
)
def test_pruning_that_cannot_work_is_refused_by_name(changes: dict[str, Any], size: int, said: str) -> None:
    config = from_tree({"pruning": {"name": "low", **changes}})
    with pytest.raises(UsageError, match=said):
        planned(config.pruning, 3, size)
