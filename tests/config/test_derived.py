"""What follows from the settings: threads, slots, bound and depth; and what cannot make progress."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.config import StalenessSettings, bound, check_staleness, depth, derived, from_tree
from sparring.errors import UsageError


@pytest.mark.parametrize(
    ("cores", "tree", "of_worker", "of_trainer"),
    [
        (2, {"workers": {"count": 1}}, 1, 1),
        (2, {"workers": {"count": 2}}, 1, 1),  # the demo: the trainer's steps are short
        (4, {"workers": {"count": 1}}, 3, 1),
        (4, {"workers": {"count": 2}}, 1, 2),
        (16, {"workers": {"count": 4}}, 3, 4),
        (8, {"workers": {"count": 2, "threads": 1}}, 1, 6),
        (8, {"workers": {"count": 2, "num_gpus": 1}}, 1, 1),
        (8, {"workers": {"count": 2}, "trainer": {"threads": 3}}, 3, 3),
        (8, {"workers": {"count": 0}}, 7, 8),
        (16, {"workers": {"count": 4}, "trainer": {"count": 4}}, 3, 1),
        (8, {"workers": {"count": 0}, "trainer": {"count": 3}}, 5, 2),
        (8, {"engine": "sync"}, 3, 8),
        (8, {"engine": "ddp", "ddp": {"ranks": 4}}, 3, 2),
    ],
    ids=str,
)
def test_the_cores_are_used_once(
    cores: int, tree: dict[str, Any], of_worker: int, of_trainer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "cores", lambda: cores)
    config = from_tree(tree)
    trainers = config.trainer.count
    threads = derived.worker_threads(config.workers, trainers), derived.trainer_threads(config)
    assert threads == (of_worker, of_trainer)
    if config.engine == "ray" and cores > config.workers.count > 0:
        assert config.workers.count * of_worker + trainers * of_trainer <= cores or config.trainer.threads is not None


def test_slots_are_for_workers_with_gpus_unless_set() -> None:
    bullettrain = {"allocator": {"name": "bullettrain"}, "train": {"batch_size": 50}}
    assert derived.slots_of(from_tree(bullettrain)) == 0
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 0.5}})) == 50
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "attack": {"restarts": 2}})) == 0
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "engine": "sync"})) == 0
    assert derived.tickets_at_once(from_tree({"allocator": {"slots": 8}})) == 3
    assert derived.tickets_at_once(from_tree({"allocator": {"slots": 8}, "staleness": {"exchange": False}})) == 1


@pytest.mark.parametrize(
    ("trainers", "workers", "own", "share"),
    [(1, 3, "always", 2), (1, 3, "never", 3), (2, 6, "always", 1), (1, 0, "always", 8), (1, 0, "never", 8)],
)
def test_the_tickets_of_a_step_fall_to_all_attackers_alike(trainers: int, workers: int, own: str, share: int) -> None:
    config = from_tree(
        {
            "trainer": {"count": trainers},
            "workers": {"count": workers},
            "train": {"shards_per_step": 8},
            "staleness": {"trainer_attacks": own},
        }
    )
    assert derived.share_of_step(config) == share


def test_the_bound_is_that_of_the_engine() -> None:
    tree = {"staleness": {"max_staleness": 5}, "simulated": {"staleness": 9}}
    assert [bound(from_tree({"engine": engine, **tree})) for engine in ("ray", "sync", "simulated")] == [5, 0, 9]


@pytest.mark.parametrize(
    ("bound", "every", "deep"),
    [(4, 1, 3), (3, 1, 2), (1, 1, 0), (0, 1, 0), (10, 1, 3), (10, 8, 2), (4, 5, 0)],
)
def test_by_default_the_depth_is_the_deepest_without_drops(bound: int, every: int, deep: int) -> None:
    settings = StalenessSettings(max_staleness=bound, publish_every=every)
    assert depth(settings) == deep
    assert check_staleness(settings) is None


@pytest.mark.parametrize(
    ("bound", "every", "deep", "reported"),
    [
        (0, 2, None, r"max_staleness >= publish_every - 1 fails \(0 < 1\).*Set max_staleness to at least 1"),
        (3, 5, 0, r"\(3 < 4\).*at least 4"),
        (2, 1, 3, r"staleness.depth = 3 exceeds staleness.max_staleness = 2.*Set depth to at most 2"),
        (0, 1, 1, "depth <= max_staleness fails"),
    ],
)
def test_staleness_settings_that_cannot_make_progress_are_refused(
    bound: int, every: int, deep: int | None, reported: str
) -> None:
    with pytest.raises(UsageError, match=reported):
        check_staleness(StalenessSettings(max_staleness=bound, publish_every=every, depth=deep))


@pytest.mark.parametrize(
    ("bound", "every", "deep", "dropped"),
    [
        (4, 1, 3, None),
        (4, 1, 4, "expect up to 1 of 6 shards to be dropped"),
        (1, 1, 1, "expect up to 1 of 3 shards to be dropped"),
        (4, 4, 1, "expect up to 1 of 6 shards to be dropped"),
        (4, 4, 0, None),
        (5, 4, 1, None),
        (1, 2, 0, None),
    ],
)
def test_settings_that_will_drop_shards_are_warned_of(bound: int, every: int, deep: int, dropped: str | None) -> None:
    reported = check_staleness(StalenessSettings(max_staleness=bound, publish_every=every, depth=deep))
    assert (reported is None) if dropped is None else (reported is not None and dropped in reported)
