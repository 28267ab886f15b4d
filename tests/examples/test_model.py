"""The example of a network of one's own trains with its options, and is found again from another folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.commands.evaluate import open_trained
from sparring.models import count_parameters
from tests.support.examples import ROOT, run_command_of


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run_command_of(ROOT / "examples" / "model.py", tmp_path)
    assert result.summary["steps"] == 2
    monkeypatch.chdir(tmp_path)
    model = open_trained(result.run, {}).model
    assert count_parameters(model) == 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert {"normalize.mean", "normalize.std"} < set(model.state_dict())
