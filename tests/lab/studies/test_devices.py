"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.lab.studies import devices
from sparring.lab.study import SIZES, Size
from sparring.lab.work import Place, measure
from tests.support.studies import require_sound, studies_in

STUDIES = studies_in(devices)
RECORD = Path(__file__).parents[3] / "lab" / "results" / "devices" / "quick" / "points.jsonl"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


@pytest.mark.parametrize("system", devices.SYSTEMS)
def test_the_record_is_what_the_clock_gives_now(system: str, tmp_path: Path) -> None:
    """It needs no training, so a record that the code has left behind is found."""
    kept = {line["key"]: line["figures"] for line in map(json.loads, RECORD.read_text().splitlines())}
    (study,) = STUDIES.values()
    (point,) = [each for each in study.points("quick", [0]) if each.at == {"system": system, "devices": 8}]
    assert measure(point, Place(tmp_path, tmp_path)) == pytest.approx(kept[point.key])
