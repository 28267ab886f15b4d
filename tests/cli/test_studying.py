"""lab on the command line: the list, what is refused, and pages from records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.lab.studies import STUDIES
from tests.support.commands import Say
from tests.support.studies import STUDY


@pytest.fixture(autouse=True)
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, STUDY.name, STUDY)


def test_studies_are_listed(say: Say) -> None:
    said = say("lab")
    assert said.code == 0 and "staleness" in said.out and "0 of 3" in said.out and "`sparring lab NAME`" in said.err
    found = {each["study"]: each for each in json.loads(say("lab", "--json", "--seeds", "0", "1").out)}
    assert found["digits"]["points"] == 5 and found["digits"]["claims"][0]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nothing"], "no such study"),
        (["digits", "--size", "huge"], "--size huge: choose one of quick, full"),
        (["digits", "--num-gpus", "1"], "Give its --address too"),
        (["digits", "--pages", "docs"], "--pages runs no study"),
        (["--pages", "docs"], "no page"),
        (["digits", "--seeds", "0", "0"], "a seed stands there twice"),
    ],
)
def test_what_cannot_be_is_refused(say: Say, words: list[str], complaint: str) -> None:
    said = say("lab", *words)
    assert said.code == 2 and complaint in said.complaint


def test_a_study_prints_its_table_and_goes_on_where_it_was(say: Say) -> None:
    said = say("lab", "digits", "--processes", "1")
    assert said.code == 0 and "# digits: Does the rate matter?" in said.out and "3 of 3 points" in said.out
    assert "left, about" in said.err and (Path("lab/results/digits/quick/points.jsonl")).exists()
    again = say("lab", "digits", "--json")
    assert again.code == 0 and json.loads(again.out)[0]["done"] == 3 and "left" not in again.err
    Path("page.md").write_text("<!-- lab: digits quick -->\n<!-- end of digits -->\n")
    assert "page.md: digits" in say("lab", "--pages", ".").out
