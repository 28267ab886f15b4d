"""What is done is kept line by line; a damaged line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.errors import SparringError
from sparring.lab.records import LOG, POINTS, Records, records_of, write
from sparring.lab.study import Point
from tests.support.studies import STUDY

POINT = Point("train", {"s": 1, "seed": 0}, {"train.seed": 0})


def test_a_finished_point_is_found_again(tmp_path: Path) -> None:
    records = records_of(STUDY, "quick", tmp_path)
    assert records.read() == {} and records.folder == tmp_path / "digits" / "quick"
    records.add(POINT, {"robust": 0.5}, 12.34, {"cores": 2})
    found = Records(records.folder).read()[POINT.key]
    assert found["figures"] == {"robust": 0.5} and found["seconds"] == 12.3 and found["settings"] == {"train.seed": 0}
    assert "train s=1 seed=0: 12 s" in (records.folder / LOG).read_text()
    elsewhere = Point("train", {"other": 2}, {"train.seed": 0})  # the same point at other coordinates
    assert [each["at"] for each in records.results([elsewhere])] == [{"other": 2}]
    assert len(records.results([Point("train", {}, {"train.seed": 1})])) == 0


def test_a_damaged_line_is_named_and_a_cut_one_does_not_spoil_the_next(tmp_path: Path) -> None:
    records = Records(tmp_path)
    (tmp_path / POINTS).write_text('{"key": "a')
    records.add(POINT, {}, 1, {})
    assert json.loads((tmp_path / POINTS).read_text().splitlines()[1])["key"] == POINT.key
    with pytest.raises(SparringError, match=r"points\.jsonl:1 is damaged.*Delete that line"):
        records.read()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SparringError, match="file"):
        Records(tmp_path / "file" / "x").add(POINT, {}, 1, {})
    with pytest.raises(SparringError, match="file"):
        write(tmp_path / "file" / "x", "text")
    write(tmp_path / "new" / "x", b"bytes")
    assert (tmp_path / "new" / "x").read_bytes() == b"bytes"
