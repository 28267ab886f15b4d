"""The asynchronous engine on a virtual clock, against arithmetic and against the loop in one process."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparring.commands.train import Result, train
from tests.support.runs import small, weights_of

BATCH, EXAMPLES = 16, 320
SECONDS = {"attack_example_s": 1e-3, "step_example_s": 1e-3, "publish_s": 0.0, "push_s": 0.0, "jitter": 0.0}
ATTACKS = {"trainer_attacks": "always"}
ALL_ONCE = Counter({(epoch, number): 1 for epoch in range(2) for number in range(EXAMPLES // BATCH)})


def made(root: Path, **groups: Any) -> Result:
    tree: dict[str, Any] = {
        "engine": "virtual",
        "data": {"limit": EXAMPLES},
        "train": {"epochs": 2, "max_steps": None, "batch_size": BATCH},
        "queue": {"wire": "exact"},
        "virtual": SECONDS,
    }
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return train(small(root, **tree), progress=False)


def tickets(result: Result) -> Counter[tuple[int, int]]:
    lines = map(json.loads, result.run.history.read_text().splitlines())
    return Counter((line["epoch"], number) for line in lines for number in line["tickets"])


@pytest.mark.parametrize(("workers", "attack_steps"), [(1, 4), (2, 4), (3, 6), (8, 4), (8, 2)])
def test_throughput_is_that_of_the_workers_until_the_trainer_is_saturated(
    tmp_path: Path, workers: int, attack_steps: int
) -> None:
    """A shard takes κ steps of b examples, a training step one: W / κ shards in the time of a step. At most 1, and at
    most (d + 1) / (κ + 1): a permit comes back after the attack and the step that trains on it. d is 3."""
    result = made(tmp_path, workers={"count": workers}, attack={"steps": attack_steps}, staleness={"exchange": False})
    steps, step_s = result.summary["steps"], BATCH * 1e-3
    ideal = steps * step_s / min(1.0, workers / attack_steps, 4 / (attack_steps + 1))
    assert ideal * 0.99 <= result.summary["seconds"] <= ideal * 1.05 + attack_steps * step_s
    assert tickets(result) == ALL_ONCE
    assert result.summary["staleness_max"] <= 4


def test_bound_0_makes_the_weights_of_the_synchronous_loop(tmp_path: Path) -> None:
    exact = {"staleness": {"max_staleness": 0, "depth": 0}, "workers": {"count": 3}, "train": {"shards_per_step": 3}}
    assert weights_of(made(tmp_path, **exact)) == weights_of(made(tmp_path, **exact, engine="sync"))


def test_with_a_fresh_finish_the_cluster_changes_the_clock_alone(tmp_path: Path) -> None:
    """Three or seven workers, two speeds, one that dies and one that joins: the same weights at other times."""
    common = {"staleness": {"finish": 2}, "attack": {"steps": 6}, "train": {"shards_per_step": 4}}
    expected = weights_of(made(tmp_path, **common, engine="sync"))
    events = [{"at_s": 0.5, "worker": 1, "what": "dies"}, {"at_s": 1.0, "worker": 4, "what": "joins"}]
    clusters: list[dict[str, Any]] = [
        {"workers": {"count": 3}},
        {"workers": {"count": 7}, "staleness": {**common["staleness"], "trainer_attacks": "always"}},
        {"workers": {"count": 4}, "virtual": {"speeds": [1, 0.4], "events": events}, "queue": {"lease_s": 2}},
    ]
    results = [made(tmp_path, **{**common, **groups}) for groups in clusters]
    assert [weights_of(result) == expected for result in results] == [True] * 3
    assert all(result.summary["staleness_max"] == 0 for result in results)
    assert len({result.summary["seconds"] for result in results}) == 3
    assert results[1].summary["seconds"] < results[0].summary["seconds"]
    assert results[2].summary["shards_dropped_by_reason"] == {"lease_expired": 1}


@pytest.mark.parametrize("split", [{"workers": {"count": 4}}, {"workers": {"count": 3}, "trainer": {"count": 2}}])
def test_late_tickets_are_attacked_by_others_too_and_the_weights_are_the_same(
    tmp_path: Path, split: dict[str, Any]
) -> None:
    """A worker that dies costs a moment instead of a lease of 5 s, and one that is slow less than without copies."""
    common: dict[str, Any] = {
        "staleness": {"finish": 2, **ATTACKS},
        "attack": {"steps": 6},
        "train": {"shards_per_step": 4},
        "queue": {"lease_s": 5.0, "wire": "exact"},
    }
    expected = weights_of(made(tmp_path, **common, engine="sync"))
    common |= split
    copied = {**common, "staleness": {**common["staleness"], "copy_after": 2.0}}
    dies = {"events": [{"at_s": 0.5, "worker": 1, "what": "dies"}]}
    for trouble, share in ((dies, 0.5), ({"speeds": [0.1]}, 0.7)):
        alone, together = (made(tmp_path, **groups, virtual=trouble) for groups in (common, copied))
        assert weights_of(together) == weights_of(alone) == expected
        assert together.summary["seconds"] < share * alone.summary["seconds"], trouble
        assert tickets(together) == ALL_ONCE and together.summary["staleness_max"] == 0


@pytest.mark.parametrize("every", [4, 1000], ids=["from a checkpoint", "from the beginning"])
@pytest.mark.parametrize("split", [{"workers": {"count": 3}}, {"workers": {"count": 2}, "trainer": {"count": 2}}])
def test_a_trainer_that_dies_twice_goes_on_under_a_new_fence_and_a_fresh_finish_makes_the_same_weights(
    tmp_path: Path, every: int, split: dict[str, Any]
) -> None:
    common: dict[str, Any] = {
        "staleness": {"finish": 2, **ATTACKS},
        "attack": {"steps": 6},
        "train": {"shards_per_step": 4},
    }
    dies = [{"at_s": at_s, "what": "trainer_dies", "down_s": 0.3} for at_s in (0.6, 1.35)]
    result = made(tmp_path, **common, **split, virtual={"events": dies}, checkpoint={"every_steps": every})
    assert weights_of(result) == weights_of(made(tmp_path, **common, engine="sync"))
    undisturbed = made(tmp_path, **common, **split, checkpoint={"every_steps": every})
    assert result.summary["trainer_restarts"] == 2
    assert result.summary["seconds"] > undisturbed.summary["seconds"] + 2 * 0.3, "what is lost takes its time"
    steps = {line["step"]: line for line in map(json.loads, result.run.history.read_text().splitlines())}
    assert sorted(steps) == list(range(1, 11)) and {line["fence"] for line in steps.values()} <= {1, 2, 3}
    assert Counter((line["epoch"], number) for line in steps.values() for number in line["tickets"]) == ALL_ONCE


@pytest.mark.parametrize("exchange", [False, True])
def test_after_the_death_of_a_trainer_no_shard_of_its_life_is_trained_on(tmp_path: Path, exchange: bool) -> None:
    dies = {"events": [{"at_s": 0.4, "what": "trainer_dies", "down_s": 0.2}]}
    split = {"workers": {"count": 5}, "staleness": {"exchange": exchange, **ATTACKS}, "checkpoint": {"every_steps": 4}}
    first, second = (made(tmp_path, **split, virtual=dies) for _ in range(2))
    assert weights_of(first) == weights_of(second), "it is the same every time"
    lines = [json.loads(line) for line in first.run.history.read_text().splitlines()]
    again = next(place for place, line in enumerate(lines) if line["fence"] == 2)
    assert 0 < again < len(lines) and all(line["fence"] == 2 for line in lines[again:])
    steps = {line["step"]: line for line in lines}
    assert Counter((line["epoch"], number) for line in steps.values() for number in line["tickets"]) == ALL_ONCE
    assert first.summary["staleness_max"] <= first.summary["max_staleness"]


def test_a_run_is_the_same_twice_and_another_jitter_is_another_run(tmp_path: Path) -> None:
    loose = {"workers": {"count": 5}, "virtual": {"jitter": 0.2}, "train": {"epochs": 1}}
    first, second = (made(tmp_path, **loose) for _ in range(2))
    assert weights_of(first) == weights_of(second) and first.summary["seconds"] == second.summary["seconds"]
    other = made(tmp_path, **{**loose, "virtual": {"jitter": 0.3}})
    assert other.summary["seconds"] != first.summary["seconds"]


def test_in_flight_exchange_makes_shards_fresher(tmp_path: Path) -> None:
    common = {"workers": {"count": 6}, "attack": {"steps": 8}}
    plain, exchanged = (made(tmp_path, **common, staleness={"exchange": flag}) for flag in (False, True))
    assert exchanged.summary["staleness_mean"] < plain.summary["staleness_mean"]


def test_slots_for_two_tickets_make_twice_the_shards_where_a_step_takes_the_same_time(tmp_path: Path) -> None:
    common = {
        "workers": {"count": 1},
        "attack": {"steps": 8},
        "staleness": {"exchange": True, "max_staleness": 6, "depth": 6},
        "virtual": {"attack_s": 0.1, "attack_example_s": 0.0},
    }
    alone, shared = (made(tmp_path, **common, allocator={"slots": slots}) for slots in (0, 2 * BATCH))
    assert shared.summary["seconds"] == pytest.approx(alone.summary["seconds"] / 2, rel=0.05)
    assert tickets(alone) == tickets(shared) == ALL_ONCE


def test_an_attack_waits_until_its_worker_has_loaded_the_weights(tmp_path: Path) -> None:
    """With the bound 0 each step has weights of its own; within an attack they are not loaded again."""
    exact: dict[str, Any] = {"staleness": {"max_staleness": 0, "depth": 0}, "workers": {"count": 1}}
    at_once, later = (made(tmp_path, **exact, virtual={"load_s": load_s}) for load_s in (0.0, 0.01))
    longer = later.summary["seconds"] - at_once.summary["seconds"]
    assert longer == pytest.approx(0.01 * later.summary["steps"], abs=0.0101)


def test_a_worker_of_half_the_speed_makes_half_the_shards(tmp_path: Path) -> None:
    result = made(
        tmp_path, workers={"count": 2}, attack={"steps": 8}, virtual={"speeds": [1, 0.5]}, train={"epochs": 6}
    )
    lines = map(json.loads, result.run.history.read_text().splitlines())
    counts = Counter(name for line in lines for name in line["workers"])
    assert counts["worker-1"] == pytest.approx(2 * counts["worker-2"], rel=0.1)


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (3, 2)])
def test_trainers_in_parallel_change_the_clock_alone_where_nothing_is_stale(
    tmp_path: Path, ranks: int, workers: int
) -> None:
    common = {"train": {"shards_per_step": 4, "epochs": 1}, "attack": {"steps": 3}, "data": {"limit": 256}}
    split = {"trainer": {"count": ranks}, "workers": {"count": workers}}
    for fresh in ({"finish": 2}, {"max_staleness": 0, "depth": 0}):
        expected = weights_of(made(tmp_path, **common, staleness=fresh, engine="sync"))
        assert weights_of(made(tmp_path, **common, staleness={**fresh, **ATTACKS}, **split)) == expected


def test_ranks_share_a_step_and_its_attacks_and_add_up_gradients(tmp_path: Path) -> None:
    """Two ranks, nothing overlaps (depth 0): a step of 4 shards takes each rank two attacks of 4 steps on 16 examples,
    a step on 32, and together an all-reduce of two messages of half the gradients."""
    result = made(
        tmp_path,
        trainer={"count": 2},
        workers={"count": 0},
        train={"shards_per_step": 4, "epochs": 1},
        attack={"steps": 4},
        staleness={"max_staleness": 0, "depth": 0, **ATTACKS},
        virtual={"message_s": 0.001, "bandwidth": 1e6},
    )
    size_bytes = 4 * sum(each.numel() for each in result.load_model().parameters())
    allreduce_s = 2 * (0.001 + size_bytes / 2 / 1e6)
    assert result.summary["seconds"] == pytest.approx(5 * (2 * 4 * 0.016 + 0.032 + allreduce_s))


def test_loose_ranks_are_the_same_twice_and_attack_beside_the_first(tmp_path: Path) -> None:
    loose = {"workers": {"count": 1}, "trainer": {"count": 3}, "train": {"epochs": 1, "shards_per_step": 4}}
    more = {"attack": {"steps": 6}, "virtual": {"jitter": 0.2}, "staleness": ATTACKS}
    first, second = (made(tmp_path, **loose, **more) for _ in range(2))
    assert weights_of(first) == weights_of(second) and first.summary["seconds"] == second.summary["seconds"]
    lines = map(json.loads, first.run.history.read_text().splitlines())
    counts = Counter(name for line in lines for name in line["workers"])
    assert counts["trainer"] == pytest.approx(3 * counts["worker-1"], rel=0.5)
