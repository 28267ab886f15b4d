"""Processes of one machine share its cores and do not take more threads than there are, where that can be."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.config import derived, from_tree


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
    assert (derived.worker_threads(config), derived.trainer_threads(config)) == (of_worker, of_trainer)
    if config.engine == "ray" and cores > config.workers.count > 0:
        assert config.workers.count * of_worker + of_trainer <= cores or config.trainer.threads is not None


def test_slots_are_for_workers_with_gpus_unless_set() -> None:
    bullettrain = {"allocator": {"name": "bullettrain"}, "train": {"batch_size": 50}}
    assert derived.slots_of(from_tree(bullettrain)) == 0
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 0.5}})) == 50
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "attack": {"restarts": 2}})) == 0
    assert derived.slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "engine": "sync"})) == 0
    assert derived.tickets_at_once(from_tree({"allocator": {"slots": 8}})) == 3
    assert derived.tickets_at_once(from_tree({"allocator": {"slots": 8}, "staleness": {"exchange": False}})) == 1
