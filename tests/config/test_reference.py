"""The page of settings is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from sparring.config import SHORT_NAMES, setting_names
from sparring.config.reference import markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_settings_is_up_to_date() -> None:
    reported = (DOCS / "configuration.md").read_text()
    assert reported.endswith(markdown()), (
        "run: python -m sparring.config.reference, and replace the end of docs/configuration.md"
    )


def test_every_setting_has_one_row_with_default_unit_and_meaning() -> None:
    rows = [line.strip("|").split(" | ") for line in markdown().splitlines() if line.startswith("| `")]
    names = [re.findall(r"`([^`]+)`", row[0])[0] for row in rows]
    assert sorted(names) == sorted(setting_names())
    assert [row[0] for row in rows if len(row) != 4 or not all(cell.strip() for cell in row)] == []


def test_short_names_stand_beside_the_settings_that_they_mean() -> None:
    for short, full in SHORT_NAMES.items():
        assert f"| `{full}` (or `--{short}`) |" in markdown()
