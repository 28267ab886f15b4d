"""Docs that are generated are up to date."""

from __future__ import annotations

from pathlib import Path

from sparring.config.reference import markdown
from sparring.observe.report import SUMMARY_KEYS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_settings_is_up_to_date() -> None:
    told = (DOCS / "configuration.md").read_text()
    assert told.endswith(markdown()), (
        "run: python -m sparring.config.reference, and replace the end of docs/configuration.md"
    )


def test_every_key_of_a_summary_is_documented() -> None:
    told = (DOCS / "operations.md").read_text()
    assert [key for key in SUMMARY_KEYS if f"`{key}`" not in told] == []
