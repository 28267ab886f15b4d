"""The verdict benchmark reckons whole runs from short ones, and counts a verdict as right within 5 %."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.verdict import SETTINGS, config_of, is_right, lines_of, seconds_of, with_engine
from sparring.commands.combinations import check_combinations
from tests.support.measured import measured


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def test_every_setting_can_be_run(setting: tuple[str, str, str, int, int, int, int]) -> None:
    config = config_of(setting, Path("data"), Path("runs"))
    for engine in ("sync", "ray"):
        check_combinations(with_engine(config, engine, 2, 10))


def test_a_whole_run_takes_its_start_and_its_shards_at_the_measured_pace() -> None:
    record = {"setting": 0, "examples": 640, "runs": {"sync": {"start_s": 2.0, "shards_per_second": 50.0}}}
    assert seconds_of(record, config_of(SETTINGS[0], Path(), Path())) == {"sync": 2.0 + 30 * 10 / 50}


@pytest.mark.parametrize(("named", "right"), [("sync", True), ("ray", True), ("ddp", False)])
def test_a_verdict_is_right_within_5_percent_of_the_fastest(named: str, right: bool) -> None:
    assert is_right(named, {"sync": 104.0, "ray": 100.0, "ddp": 106.0}) is right


def test_the_share_of_the_settings_that_only_check_is_told_apart() -> None:
    runs = {"sync": {"start_s": 0.0, "shards_per_second": 10.0, "processes": 1}}
    records = [
        {"setting": number, "examples": 640, "measured": asdict(measured(0.08, 0.01, alone_s=0.045)), "runs": runs}
        for number in (0, 1, 3)
    ]
    assert lines_of(records)[-1] == "right: 3 of 3; of those that were not used to calibrate: 2 of 2"
