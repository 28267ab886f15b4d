from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from sparring.observe.progress import Progress, duration, render, step_line
from sparring.observe.state import RunState
from tests.support.states import full_state, heartbeats


def shown(state: RunState, workers: dict[str, dict[str, Any]], title: str = "") -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(state, workers, title))
    return console.export_text()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "figure",
    [
        "training",
        "step 120/600",
        "epoch 6/30",
        "loss 1.25",
        "ε 0.15",
        "rate 0.002",
        "clean 93.1 %, robust 61.2 % (56.9 to 65.3; PGD-10) on 512 held out",
        "AutoAttack 57.0 % (51.0 to 63.0) of 256 held out at step 100, best 59.0 % at 80; step 115: 37 of 64 so far",
        "robust 55.1 % on training batches",
        "128 examples/s",
        "staleness 1.70 mean, 4 max, bound 4",
        "dropped 3 (stale 2, lease_expired 1)",
        "64 examples missing",
        "worker w2 came back",
    ],
)
def test_the_plain_line_tells(figure: str) -> None:
    assert figure in step_line(full_state())


def test_what_is_in_the_data_is_said_once_at_the_start() -> None:
    console = Console(file=io.StringIO(), width=200)
    with Progress("mine", console) as progress:
        for step in (1, 2):
            progress.update(RunState(step=step, total_steps=2, data="7 training images"), {})
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said[0] == "mine: 7 training images" and "training images" not in "".join(said[1:])


def test_the_plain_line_is_one_line_and_leaves_out_what_is_not_known() -> None:
    line = step_line(RunState(message="two\nlines"))
    assert "\n" not in line
    assert "loss" not in line and "None" not in line and "held out" not in line and "staleness" not in line


@pytest.mark.parametrize(
    "figure",
    [
        "demo · ray · digits · training",
        "120/600",
        "0:01:00 elapsed, 0:04:00 left",
        "6/30 · loss 1.25 · ε 0.15 · rate 0.002",
        "clean 93.1 %, robust 61.2 % (56.9 to 65.3; PGD-10) on 512 held out",
        "robust 55.1 % on training batches",
        "128 examples/s · trainer waited 10 %",
        "1 █ 30 %",
        "mean 1.70, max 4, bound 4",
        "6 outstanding, 3 ready · 3.0 MiB · dropped 3 (stale 2, lease_expired 1) · 64 missing",
        "worker w2 came back",
    ],
)
def test_the_view_shows(figure: str) -> None:
    assert figure in shown(full_state(), heartbeats(), "demo")


def test_the_view_shows_each_worker_and_how_many_more_there_are() -> None:
    lines = shown(full_state(), heartbeats(11)).splitlines()
    first = next(line for line in lines if "w0" in line)
    assert first.strip("│ ").split() == ["w0", "40", "75", "%", "118", "2", "s", "ago"]
    assert any("and 3 more" in line for line in lines)
    reported = [line.split()[1] for line in lines if "s ago" in line]
    assert reported == [f"w{index}" for index in range(8)]


def test_a_view_without_readings_and_with_empty_heartbeats_is_possible() -> None:
    text = shown(RunState(), {"w0": {}})
    assert "not measured yet" in text and "None" not in text


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    assert "[red]" in shown(RunState(message="[red]", dataset="folder:[x]"), {"[w]": {}})


def test_a_wide_bound_is_shown_in_few_ranges() -> None:
    text = shown(RunState(staleness=Counter({0: 1, 100: 1}), max_staleness=100), {})
    assert "0–14 █ 50 %" in text and "90–100 █ 50 %" in text


def test_elsewhere_a_line_comes_at_once_then_every_five_seconds_and_at_the_end() -> None:
    out, clock, state = io.StringIO(), Clock(), full_state()
    with Progress("demo", Console(file=out, width=40), clock) as progress:
        for clock.now in (0.0, 1.0, 4.9, 5.0, 6.0, 9.0):
            state.step += 1
            progress.update(state, {})
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[1] for line in lines] == ["step 121/600", "step 124/600", "step 126/600"]
    assert all(line.startswith("demo: training") for line in lines)


def test_the_same_line_is_not_repeated_at_the_end() -> None:
    out = io.StringIO()
    with Progress("demo", Console(file=out)) as progress:
        progress.update(full_state(), {})
    assert len(out.getvalue().splitlines()) == 1


def test_a_run_that_never_reported_ends_in_silence() -> None:
    out = io.StringIO()
    with Progress("demo", Console(file=out)):
        pass
    assert out.getvalue() == ""


def test_on_a_terminal_the_last_state_is_left_standing() -> None:
    out, clock, state = io.StringIO(), Clock(), full_state()
    with Progress("demo", Console(file=out, force_terminal=True, width=100), clock) as progress:
        progress.update(state, heartbeats())
        state.step = 600
        progress.update(state, heartbeats())
        assert "600/600" not in out.getvalue()
    assert "600/600" in out.getvalue()


def test_all_of_it_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("demo") as progress:
        progress.update(full_state(), {})
    captured = capsys.readouterr()
    assert captured.out == "" and "step 120/600" in captured.err


def test_durations_read_as_hours_minutes_and_seconds() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3661, 100 * 3600)] == [
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "100:00:00",
    ]
