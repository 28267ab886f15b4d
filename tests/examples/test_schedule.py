"""The example of a learning rate of one's own trains, and rises and falls as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.config import ScheduleSettings
from sparring.errors import UsageError
from sparring.trainer.schedules import learning_rate
from tests.support.examples import ROOT, run_command_of

EXAMPLE = ROOT / "examples" / "schedule.py"


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run_command_of(EXAMPLE, tmp_path)
    assert result.summary["steps"] == 2


def test_it_rises_to_the_peak_and_falls_to_its_last_share() -> None:
    settings = ScheduleSettings(name=f"{EXAMPLE}:warmup_cosine", options={"warmup": 0.2, "last": 0.1})
    rate = learning_rate(settings, 0.5)
    assert [rate(progress) for progress in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.25, 0.5, 0.275, 0.05])


def test_a_warm_up_that_cannot_be_is_refused() -> None:
    settings = ScheduleSettings(name=f"{EXAMPLE}:warmup_cosine", options={"warmup": 1})
    with pytest.raises(UsageError, match="warmup_cosine refuses its arguments: warmup = 1 must lie between 0 and 1"):
        learning_rate(settings, 0.5)
