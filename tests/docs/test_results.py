"""docs/results/: each study's part is what its committed records come to, every study has a page, and none lacks its
conclusion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparring.lab.laboratory import found_in
from sparring.lab.pages import BEGIN, END, PICTURES, marks_of, part
from sparring.lab.studies import STUDIES
from sparring.lab.study import Size
from tests.support.examples import ROOT

FOLDER = ROOT / "docs" / "results"
SHOWN = [(page, name, size) for page in sorted(FOLDER.glob("*.md")) for name, size in marks_of(page)]


@pytest.mark.parametrize(("page", "name", "size"), SHOWN, ids=[f"{name}-{size}" for _, name, size in SHOWN])
def test_a_part_is_what_the_records_come_to(page: Path, name: str, size: Size) -> None:
    study = STUDIES[name]
    found, wanted = found_in(ROOT / "lab" / "results", study, size)
    charts = [each for each in study.charts if (FOLDER / PICTURES / f"{name}-{size}-{each}.svg").exists()]
    between = page.read_text().partition(BEGIN.format(name=name, size=size) + "\n")[2]
    between = between.partition(END.format(name=name))[0]
    assert between == part(study, size, found, wanted, charts), "draw it anew: sparring lab --pages docs/results"


def test_every_study_has_its_place_and_its_conclusion() -> None:
    assert {name for _, name, _ in SHOWN} == set(STUDIES)
    text = "\n".join(page.read_text() for page in FOLDER.glob("*.md"))
    assert re.findall("CONCLUSION-[a-z-]+", text) == []
