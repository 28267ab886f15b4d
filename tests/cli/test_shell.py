"""Data go to standard output and the rest to standard error; figures are shown with their units."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from sparring.cli import shell
from sparring.errors import SparringError


def test_data_and_remarks_go_different_ways_and_a_failure_ends_with_its_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell.out("data\n\n")
    shell.note("remark")
    with pytest.raises(SystemExit) as ended:
        shell.fail("attack.steps = 0: too few.", 2)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("data\n", "remark\nsparring: attack.steps = 0: too few.\n")


def test_a_standard_output_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SparringError, match=r"^standard output: No space left on device"):
            shell.out("data")
        with suppress(OSError):
            full.close()


def test_progress_is_a_sentence_at_once_and_then_one_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say, times = shell.periodic_notes(), [100.0, 101.0, 105.0, 105.5, 110.6]
    for now in times:
        monkeypatch.setattr(shell, "time", SimpleNamespace(monotonic=lambda now=now: now))
        say(f"at {now}")
    assert capsys.readouterr() == ("", "at 100.0\nat 105.5\nat 110.6\n")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("robust_accuracy", 0.61234, "61.23 %"),
        ("robust_accuracy", 0.0, "0.00 %"),
        ("robust_interval", (0.5, 0.75), "50.00 % to 75.00 %"),
        ("examples_per_second", 1234.5678, "1235"),
        ("steps", 120_000, "120000"),
        ("shards_dropped_by_reason", {"stale": 2, "failed": 1}, "stale: 2, failed: 1"),
        ("attack", "PGD-50, 3 restarts", "PGD-50, 3 restarts"),
    ],
)
def test_a_figure_is_shown_by_its_kind(name: str, value: Any, shown: str) -> None:
    assert shell.rows({name: value}) == [{"": name.replace("_", " "), "value": shown}]


def test_what_matters_comes_first_and_what_is_zero_or_was_not_measured_is_left_out() -> None:
    values: dict[str, object] = {
        "drift_mean": None,
        "shards_dropped": 0,
        "allocated": {},
        "steps": 12,
        "robust_accuracy": 0.5,
    }
    assert [row[""] for row in shell.rows(values)] == ["robust accuracy", "steps"]
