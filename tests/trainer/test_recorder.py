"""What a step adds to the records, and what a resume leaves of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparring.attacks import PGD
from sparring.observe.state import RunState
from sparring.queue.messages import Key, Shard
from sparring.trainer.learner import StepResult
from sparring.trainer.recorder import Recorder
from tests.support.sessions import session_in


def shard(number: int, version: int, examples: int, **more: float) -> Shard:
    delta, labels = torch.zeros(examples, 1, 8, 8), torch.zeros(examples, dtype=torch.int64)
    record = PGD(0.2, steps=2).record
    return Shard(Key(0, number, 0), 3, version, version, record, delta, labels, f"worker-{number}", **more)  # type: ignore[arg-type]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    made = session_in(tmp_path).recorder
    made.learner.restore(6, made.learner.optimizer.state_dict())  # five steps, and the one that is recorded
    return made


def test_staleness_is_split_at_the_moment_that_a_shard_came(recorder: Recorder) -> None:
    shards = [shard(0, version=2, examples=4), shard(1, version=5, examples=4)]
    recorder.step(shards, StepResult(1.0, 3, 8, 0.1), 0.5, arrivals=[4, 5])
    state = recorder.state
    assert state.staleness == {3: 1, 0: 1}
    assert state.in_flight == {2: 1, 0: 1} and state.in_queue == {1: 1, 0: 1}


def test_shards_of_this_process_never_wait(recorder: Recorder) -> None:
    recorder.step([shard(0, version=1, examples=4)], StepResult(1.0, 3, 4, 0.1), 0.5, arrivals=())
    assert recorder.state.staleness == {4: 1} and recorder.state.in_flight == recorder.state.in_queue == {0: 1}


def test_loss_and_accuracy_are_means_over_examples_of_the_last_fifty_steps(recorder: Recorder) -> None:
    for loss, correct, examples in [(9.0, 0, 100)] + [(2.0, 5, 10)] * 49 + [(4.0, 0, 30)]:
        recorder.step([shard(0, 5, examples)], StepResult(loss, correct, examples, 0.1), 0.0, ())
    assert recorder.state.loss == pytest.approx((2.0 * 490 + 4.0 * 30) / 520)
    assert recorder.state.train_robust_accuracy == pytest.approx(5 * 49 / 520)
    assert recorder.state.examples == 100 + 490 + 30


def test_examples_without_a_usable_gradient_are_counted_and_many_of_them_are_told_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def step(**counts: int) -> list[str]:
        caplog.clear()
        recorder.step([shard(0, 5, 60), shard(1, 5, 60, **counts)], StepResult(1.0, 3, 120, 0.1), 0.0, ())
        return caplog.messages

    assert step(zero_gradients=1) == [], "1 of 120 is less than a hundredth"
    assert "2 of 120 examples met a gradient of exactly zero" in step(zero_gradients=2)[0]
    assert step(zero_gradients=60) == []
    assert "3 of 120 examples met gradients with entries that are not finite" in step(non_finite_gradients=3)[0]
    assert (recorder.state.attack_zero_gradients, recorder.state.attack_non_finite_gradients) == (63, 3)


def test_an_attack_that_moves_nothing_is_told_once(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    still = replace(shard(0, 5, 4, gradients=8), delta=torch.zeros(4, 1, 8, 8))
    moved = replace(still, delta=torch.full((4, 1, 8, 8), 0.1))

    def step(*shards: Shard) -> list[str]:
        caplog.clear()
        recorder.step(shards, StepResult(1.0, 3, 4, 0.1), 0.0, ())
        return caplog.messages

    assert step(still, moved) == step(replace(still, gradients=0)) == [], "some are left clean on purpose"
    assert "the attack took 8 gradients and moved none of 4 examples" in step(still)[0]
    assert step(still) == []


def test_steps_that_move_nothing_on_purpose_are_not_counted(tmp_path: Path) -> None:
    """The oracle takes ten gradients of each of 4 examples; the first replay of Free begins without a perturbation."""
    still = shard(0, 0, 4, gradients=8)
    for groups, first, counted in (
        ({"allocator": {"name": "oracle"}, "attack": {"steps": 2}}, replace(still, gradients=40), 0),
        ({"allocator": {"name": "oracle"}, "attack": {"steps": 2}}, replace(still, gradients=41), 1),
        ({"train": {"replays": 2}, "attack": {"name": "fgsm", "start": "previous"}}, still, 0),
        ({}, still, 1),
    ):
        recorder = session_in(tmp_path, **groups).recorder
        recorder.learner.restore(1, recorder.learner.optimizer.state_dict())
        recorder.step([first], StepResult(1.0, 3, 4, 0.1), 0.0, ())
        assert recorder.state.unmoved_steps == counted, groups


def test_a_step_that_gives_no_weight_a_gradient_is_told_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    learned, nothing = StepResult(1.0, 3, 4, 0.1), StepResult(1.0, 3, 4, 0.1, no_gradient=True)
    for result, told in ((learned, 0), (nothing, 1), (nothing, 1)):
        recorder.step([shard(0, 0, 4)], result, 0.1, ())
        assert sum("nothing was learned from its 4 examples" in line for line in caplog.messages) == told


def test_costs_count_only_where_the_cost_of_a_whole_attack_is_known(recorder: Recorder) -> None:
    known = shard(0, 5, 4, cost_seconds=1.0, full_seconds=3.0, gradients=8)
    unknown = shard(1, 5, 4, cost_seconds=7.0, full_seconds=0.0, gradients=8)
    recorder.step([known, unknown], StepResult(1.0, 3, 8, 0.1), 0.25, ())
    state = recorder.state
    assert (state.attack_seconds, state.full_attack_seconds, state.step_seconds) == (1.0, 3.0, 0.25)
    assert state.gradients == 16


def test_every_step_leaves_a_line_of_what_it_trained_on(recorder: Recorder) -> None:
    recorder.step([shard(4, 5, 1), shard(2, 3, 1)], StepResult(1.0, 0, 2, 0.1), 0.0, ())
    assert json.loads(recorder.run.history.read_text()) == {
        "step": 6,
        "fence": 3,
        "epoch": 0,
        "tickets": [4, 2],
        "versions": [5, 3],
        "workers": ["worker-4", "worker-2"],
        "made_by": [[5], [3]],
    }


def test_a_run_that_goes_on_keeps_its_counts_but_follows_its_settings(recorder: Recorder) -> None:
    before = RunState(engine="ray", examples=640, seconds=12.0, total_steps=3, max_staleness=9)
    recorder.continue_from(before)
    state = recorder.state
    assert (state.examples, state.engine, state.total_steps, state.max_staleness) == (640, "sync", 12, 0)
    recorder.read_clock()
    assert 12.0 <= state.seconds < 20.0
    recorder.restart()
    assert recorder.state.examples == 0
    recorder.read_clock()
    assert recorder.state.seconds < 8.0


def test_whoever_watches_hears_no_more_than_twice_a_second_but_the_end_at_once(tmp_path: Path) -> None:
    recorder, heard = session_in(tmp_path).recorder, list[str]()
    recorder.report = lambda state: heard.append(state.phase)
    for phase in ("first", "second"):
        recorder.state.phase = phase
        recorder.report_soon()
    recorder.state.phase = "last"
    recorder.report_soon(force=True)
    assert heard == ["first", "last"]
