"""One process of the data-parallel engine; alone it does what the synchronous engine does."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sparring.engines.ddp import slices
from sparring.engines.slices import Slices
from sparring.trainer.session import Session
from sparring.trainer.steps import Consumed, Step
from sparring.workers.attackers import produce_all
from tests.support.sessions import session_in

GROUPS: dict[str, Any] = {
    "engine": "ddp",
    "ddp": {"ranks": 1},
    "allocator": {"name": "bullettrain"},
    "train": {"shards_per_step": 2},
}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_in(tmp_path, **GROUPS)


@pytest.fixture
def rank(session: Session, tmp_path: Path) -> Iterator[Slices]:
    with slices(session.config.ddp, session.learner, 0, tmp_path / "meet") as made:
        yield made


def test_the_reducer_is_gone_before_the_connection_ends(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the last to hold it, it would wait for gloo's thread, and that thread for Python's lock: for ever."""
    there = list[bool]()
    with slices(session.config.ddp, session.learner, 0, tmp_path / "meet") as made:
        reducer, destroy = weakref.ref(made._parallel.reducer), dist.destroy_process_group

        def looked_at() -> None:
            there.append(reducer() is not None)
            destroy()

        monkeypatch.setattr(dist, "destroy_process_group", looked_at)
        step = next(iter(session.steps(None)))
        session.learn(*made.attack(step.keys))
    assert there == [False]


def test_a_rank_attacks_its_own_tickets_and_knows_what_all_attacks_cost(session: Session, rank: Slices) -> None:
    step, learner = next(iter(session.steps(None))), session.learner
    shards, batch = rank.attack(step.keys)
    alone = produce_all(session.tasks(step), learner.context, learner.controls(), learner.step)
    assert torch.equal(batch.x_adv, learner.batch(alone).x_adv) and rank.share == 1.0
    assert [(each.key, each.gradients, each.classes) for each in shards] == [
        (each.key, each.gradients, each.classes) for each in alone
    ]


def test_a_rank_without_a_ticket_gets_clean_images_that_do_not_count(session: Session, rank: Slices) -> None:
    step = next(iter(session.steps(None)))
    rank.rank, rank.count = 2, 3  # as the third of three, in a step of two tickets
    shards, batch = rank.attack(step.keys)
    assert torch.equal(batch.x, batch.x_adv) and rank.share == 0.0
    assert [each.worker for each in shards] == ["rank-0", "rank-1"]


def test_a_rank_begins_with_the_training_state_of_the_first(session: Session, rank: Slices) -> None:
    consumed = Consumed()
    consumed.add(Step(next(iter(session.steps(None))).keys), 1)
    assert rank.begin(consumed) == consumed
    assert rank.agree(True) and not rank.agree(False)
