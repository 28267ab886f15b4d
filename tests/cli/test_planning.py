"""The commands that predict a run for a number of devices, and measure the times for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.cli import main
from sparring.config import load
from sparring.errors import UsageError
from sparring.machine import timing


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure is measured for an instant only."""
    monkeypatch.setattr(timing, "BUDGET_S", 0.02)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_a_line_for_each_number(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--devices", "1", "2", "--price", "2.5", *(["--json"] if as_json else [])]
    monkeypatch.setattr("sys.argv", ["sparring", "explain", "--virtual.attack_s", "0.001", *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    if as_json:
        found = json.loads(said)
        assert [(each["devices"], each["cost"] > 0) for each in found["devices"]] == [(1, True), (2, True)]
        assert found["staleness.finish"] == "auto"
        assert {limit["part"] for limit in found["limits"]} >= {"the trainers' steps", "the queue's server"}
    else:
        assert "of [virtual] in the recipe" in said and "train with --staleness.finish auto" in said


def test_no_devices_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["sparring", "explain", "--devices", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UsageError.exit_code and "at least 1" in capsys.readouterr().err


def test_what_is_measured_is_written_with_its_origin_and_read_as_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "times.toml"
    monkeypatch.setattr("sys.argv", ["sparring", "calibrate", "--out", str(path), "--virtual.jitter", "0.2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and str(path) in capsys.readouterr().out
    assert path.read_text().startswith("# Measured by `sparring calibrate`: digits-cnn on digits")
    found = load(None, {"virtual.times": str(path), "virtual.push_s": "0.5"}).virtual
    assert (found.jitter, found.push_s, found.times) == (0.2, 0.5, None)
    assert found.attack_s + found.attack_example_s > 0 and found.forward_s + found.forward_example_s > 0
