"""The trainer offers versions one by one, gathers their verdicts, and keeps the weights of the best one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.config import new_run
from sparring.engines.asynchronous.rolling import AGAIN_S, MOST_OFFERS, SHARE, STALE_S, Rolling
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.models.arrays import load_arrays
from sparring.queue.messages import Piece, PieceVerdict
from sparring.queue.transport import Transport
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import small

SIZES = (16, 16, 8)


class Route:
    def __init__(self) -> None:
        self.sent: list[Snapshot] = []

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        self.sent.append(snapshot)

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        raise NotImplementedError

    exactly = newer


class Scene:
    """A session whose steps are set by hand, and a queue."""

    def __init__(self, root: Path, transport: Transport, **groups: Any) -> None:
        evaluation = {"rolling": True, "rolling_samples": 40, "rolling_batch": 16, **groups.pop("evaluation", {})}
        config = small(root, data={"holdout": 60}, evaluation=evaluation, **groups)
        self.session = Session(build_experiment(config), new_run(config), torch.device("cpu"))
        self.session.restore()
        self.transport, self.route, self.now = transport, Route(), 0.0
        self.rolling = self.opened()

    def opened(self) -> Rolling:
        asked, monitor = self.session.asked, self.session.rolling
        assert asked is not None and monitor is not None
        return Rolling(self.session, asked, monitor, self.transport.pieces(), self.route, lambda: self.now)

    def look(self, step: int | None = None, seconds: float = 1.0) -> None:
        self.now += seconds
        if step is not None:
            self.session.learner.step = step
        for _ in range(2):  # what is asked for in a thread is heard by the next look
            self.rolling.look(self.transport.fence)
            self.rolling._settle(wait=True)

    def take(self) -> list[Piece]:
        pieces = self.transport.pieces()
        return [piece for _ in range(5) if (piece := pieces.take()) is not None]

    def judge(self, pieces: list[Piece], robust: int) -> None:
        for piece in pieces:
            count = SIZES[piece.number]
            flags = tuple(place < robust for place in range(count))
            self.transport.pieces().tell(PieceVerdict(*piece[:3], (True,) * count, flags, "w"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.session.run.rolling.read_text().splitlines()]


def test_a_version_is_judged_with_the_weights_that_it_had_and_the_best_is_kept(
    tmp_path: Path, transport: Transport
) -> None:
    scene = Scene(tmp_path, transport)
    model = scene.session.learner.model
    scene.look(step=0)
    assert not scene.route.sent, "the weights of the start are not judged"
    scene.look(step=5)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    scene.session.learner.step = 9
    pieces = scene.take()
    assert [(piece.version, piece.number) for piece in pieces] == [(5, 0), (5, 1), (5, 2)]
    scene.judge(pieces[:2], robust=4)
    scene.look()
    state = scene.session.state
    assert (state.rolling_judged_version, state.rolling_judged, state.rolling_judged_robust) == (5, 32, 8)
    assert state.rolling_accuracy is None and not scene.session.run.rolling.exists()
    scene.judge(pieces[2:], robust=4)
    scene.look()
    (line,) = scene.lines
    assert (line["version"], line["samples"], line["robust_accuracy"], line["best"]) == (5, 40, 0.3, True)
    reported = scene.session.state.as_dict()
    assert [reported[name] for name in ("rolling_version", "rolling_accuracy", "rolling_best")] == [5, 0.3, 0.3]
    assert reported["rolling_best_version"] == 5
    best = checkpoints.best(scene.session.run.checkpoints)
    assert best is not None and best.name == "step-000000005" and not checkpoints.damage(best)
    checkpoints.load_weights(best, model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name])
    load_arrays(model, scene.route.sent[0].arrays)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert checkpoints.load_state(best).owners["rolling"]["best"] == 0.3


def test_a_worse_version_is_not_kept_and_patience_ends_the_training(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport, evaluation={"rolling_patience": 2})
    for step, robust in ((5, 4), (6, 4), (7, 3)):
        assert not scene.session.should_stop()
        scene.look(step=step, seconds=1000.0)
        scene.judge(scene.take(), robust)
        scene.look()
    assert [line["best"] for line in scene.lines] == [True, False, False]
    best = checkpoints.best(scene.session.run.checkpoints)
    assert best is not None and best.name == "step-000000005" and scene.session.should_stop()


def test_pieces_of_a_worker_that_died_are_offered_again(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    scene.judge(scene.take()[:1], robust=4)
    scene.look()
    scene.look(seconds=AGAIN_S / 2)
    assert scene.take() == []
    scene.look(seconds=AGAIN_S)
    again = scene.take()
    assert [piece.number for piece in again] == [1, 2]
    scene.judge(again, robust=4)
    scene.look()
    assert [line["samples"] for line in scene.lines] == [40]


def test_a_version_whose_pieces_never_come_back_gives_way(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    for _ in range(MOST_OFFERS):
        assert scene.take() != [], "taken, and never judged"
        scene.look(seconds=2 * AGAIN_S)
    assert scene.take() == [] and scene.rolling.judgement is None
    scene.look(step=9, seconds=1000.0)
    assert [each.version for each in scene.route.sent] == [5, 9]
    scene.judge(scene.take(), robust=4)
    scene.look()
    assert [line["version"] for line in scene.lines] == [9]


def test_a_version_that_nobody_had_time_for_gives_way_to_a_newer_one(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    scene.look(step=8, seconds=STALE_S / 2)
    assert [each.version for each in scene.route.sent] == [5]
    scene.look(step=9, seconds=STALE_S)
    assert [each.version for each in scene.route.sent] == [5, 9]
    assert {piece.version for piece in scene.take()} == {9}


def test_a_version_that_somebody_judges_does_not(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    assert transport.pieces().take() is not None
    scene.look(step=9, seconds=2 * STALE_S)
    assert [each.version for each in scene.route.sent] == [5]


def test_under_a_new_fence_what_is_known_is_recorded_as_a_part(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    scene.judge(scene.take()[:2], robust=4)
    scene.look()
    transport.open(transport.fence + 1)
    scene.look(step=6, seconds=1000.0)
    (line,) = scene.lines
    assert (line["version"], line["samples"], line["of"], line["complete"], line["best"]) == (5, 32, 40, False, False)
    assert checkpoints.best(scene.session.run.checkpoints) is None
    assert {piece.fence for piece in scene.take()} == {transport.fence}


def test_what_it_takes_of_the_trainer_is_a_share_of_the_time(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, transport)
    checkpoint = scene.session.training.checkpoint

    def slow() -> checkpoints.Checkpoint:
        scene.now += 2.0
        return checkpoint()

    monkeypatch.setattr(scene.session.training, "checkpoint", slow)
    began = scene.now
    for step in range(1, 4000):
        scene.look(step=step)
        scene.judge(scene.take(), robust=1)
    assert len(scene.route.sent) > 5
    assert scene.rolling.seconds <= SHARE * (scene.now - began) + 2.0 + 1e-6


def test_the_last_weights_are_judged_while_somebody_answers(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    answered = 0

    def wanted() -> bool:
        nonlocal answered
        scene.judge(scene.take(), robust=4)
        answered += 1
        return True

    scene.session.learner.step = 12
    scene.rolling.finish(transport.fence, wanted, timeout_s=1.0)
    assert [(line["version"], line["complete"]) for line in scene.lines] == [(12, True)] and answered
    scene.rolling.finish(transport.fence, lambda: pytest.fail("they are judged already"), timeout_s=1.0)


def test_nobody_waits_for_verdicts_that_do_not_come(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport)
    scene.session.learner.step = 12

    def wanted() -> bool:
        scene.now += 10.0
        return True

    scene.rolling.finish(transport.fence, wanted, timeout_s=30.0)
    scene.rolling.close()
    assert not scene.session.run.rolling.exists() and 30.0 <= scene.now <= 60.0


def test_the_best_that_was_found_after_the_newest_checkpoint_is_not_forgotten(
    tmp_path: Path, transport: Transport
) -> None:
    scene = Scene(tmp_path, transport)
    scene.look(step=5)
    scene.judge(scene.take(), robust=4)
    scene.session.learner.step = 20
    scene.session.save()
    scene.look()
    monitor = scene.session.rolling
    assert monitor is not None and monitor.best == 0.3
    scene.session.restore()
    assert monitor.best == -1.0
    scene.opened()
    assert (monitor.best, monitor.best_version) == (0.3, 5)


def test_the_average_is_judged_where_there_is_one(tmp_path: Path, transport: Transport) -> None:
    scene = Scene(tmp_path, transport, train={"ema": 0.9})
    average = scene.session.learner.average
    assert average is not None
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.zero_()
    scene.look(step=5)
    names = [name for name, _ in average.named_parameters()]
    assert all(not scene.route.sent[0].arrays[name].any() for name in names)
