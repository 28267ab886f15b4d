"""report and attack on the command line: data to standard output, the rest to standard error, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.report import charts
from tests.support.commands import Say


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds; tests/commands/test_report.py has them."""
    monkeypatch.setattr(charts, "installed", lambda: False)


def test_a_report_prints_its_path(say: Say, finished: Path) -> None:
    said = say("report", finished, "--no-gallery")
    assert (said.code, said.out) == (0, f"{finished / 'report.html'}\n") and "drawing the charts" in said.err
    again = say("report", finished, "-o", "mine.html", "--json", "--evaluation.steps", "2")
    assert json.loads(again.out)["report"] == "mine.html" and Path("mine.html").stat().st_size > 1000


def test_a_report_of_what_is_no_run_is_refused(say: Say, tmp_path: Path, finished: Path) -> None:
    assert say("report", tmp_path).code == 2
    Path("notes.html").write_text("mine")
    said = say("report", finished, "--out", "notes.html", "--no-gallery")
    assert said.code == 2 and "is no report" in said.complaint


def test_an_attack_prints_what_the_network_says(say: Say, finished: Path) -> None:
    said = say("attack", finished, "--count", "3", "--grid", "sheet.png", "--json")
    found = json.loads(said.out)
    assert said.code == 0 and len(found["images"]) == 3 and Path("sheet.png").exists()
    assert {"before", "after", "label", "result"} <= found["images"][0].keys()
    shown = say("attack", finished, "--count", "2").out
    assert "before" in shown and "after" in shown and "test image" in shown


def test_files_follow_each_other(say: Say, finished: Path) -> None:
    for name, side in (("a.png", 8), ("b.png", 8), ("c.png", 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(name)
    found = json.loads(say("attack", finished, "--image", "a.png", "b.png", "--json").out)
    assert [each["image"] for each in found["images"]] == ["a.png", "b.png"]
    said = say("attack", finished, "--image", "c.png")
    assert said.code == 2 and "1 x 9 x 9" in said.complaint and "1 x 8 x 8" in said.complaint
    assert say("attack", finished, "--image").code == 2
    both = say("attack", finished, "--image", "a.png", "--count", "3")
    assert both.code == 2 and "--count 3 with --image" in both.complaint


def test_the_warnings_of_an_attack_are_said(say: Say, finished: Path) -> None:
    small = "--attack.epsilon", "0.0003", "--count", "3"
    assert "less than half a grey level" in say("attack", finished, *small).out
    found = json.loads(say("attack", finished, *small, "--json").out)
    assert any("less than half a grey level" in text for text in found["warnings"])
