"""Each section shows its figures with their samples, or says what is missing and how to make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.config import from_tree, new_run
from sparring.observe.state import RunState
from sparring.report import sections
from sparring.report.parts import Section
from sparring.report.records import Records, read_records
from tests.support.reported import recorded

ALL: Sequence[Callable[[Sequence[Records]], Section]] = [
    sections.figures_section,
    sections.learning_section,
    sections.curves_section,
    sections.classes_section,
    sections.staleness_section,
    sections.speed_section,
    sections.allocator_section,
    sections.guards_section,
]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return read_records(recorded(tmp_path), "mine")


@pytest.fixture
def bare(tmp_path: Path) -> Records:
    return read_records(new_run(from_tree({"run": {"root": str(tmp_path), "name": "bare"}})), "bare")


def words(section: Section) -> str:
    cells = [cell for table in section.tables for row in table.rows for cell in row.cells]
    cells += [cell for chart in section.charts for row in chart.table.rows for cell in row.cells]
    return " | ".join((*section.notes, *cells))


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_run_without_records_gives_words_and_no_error(
    make: Callable[..., Section], bare: Records, records: Records
) -> None:
    alone = make([bare])
    assert alone.notes or alone.tables
    assert not alone.charts
    assert make([bare, records]).title == alone.title


def test_figures_have_interval_attack_and_samples(records: Records) -> None:
    found = sections.figures_section([records])
    assert "50.0 % (40.0 to 60.0) | 90.0 % (82.0 to 95.0) | 100 (all) | PGD-5" in words(found)
    assert "mine: the weights are young" in found.notes
    assert [(card.value, card.interval) for card in found.cards[:2]] == [
        ("50.0 %", "95 %: 40.0 to 60.0"),
        ("90.0 %", "95 %: 82.0 to 95.0"),
    ]
    assert found.cards[2].detail == "highest 1, bound 4; 40 shards"


def test_learning_may_be_drawn_against_steps_examples_and_seconds(records: Records) -> None:
    found = sections.learning_section([records])
    assert [chart.along for chart in found.charts] == ["step", "step", "examples", "examples", "seconds", "seconds"]
    assert "train.evaluate_every_epochs was 0" in found.notes[0]


def test_curves_and_classes_that_are_not_there_say_how_to_make_them(records: Records) -> None:
    without = replace(records, curves=None, evaluation=None)
    assert "`sparring curves RUN` makes it" in words(sections.curves_section([without]))
    assert "`sparring evaluate RUN` makes them" in words(sections.classes_section([without]))
    assert "mine: 100 test examples (all)." in sections.curves_section([records]).notes
    assert "no sign of masking. Also use AutoAttack." in words(sections.curves_section([records]))


def test_staleness_of_a_synchronous_run_is_explained(records: Records) -> None:
    state = RunState(engine="sync", staleness=records.state.staleness)
    assert "mine is synchronous" in words(sections.staleness_section([replace(records, state=state)]))


def test_workers_are_listed_with_their_shards(records: Records) -> None:
    assert "mine | worker-0 | 4 | 50.0 %" in words(sections.speed_section([records]))


def test_a_run_without_allocator_says_so(records: Records) -> None:
    none = replace(records, history=())
    assert "no allocator" in words(sections.allocator_section([none]))
    assert [chart.name for chart in sections.allocator_section([records, none, records]).charts] == [
        "allocated-0",
        "allocated-2",
    ]


def test_names_of_charts_are_unique(records: Records) -> None:
    names = [chart.name for make in ALL for chart in make([records]).charts]
    assert len(names) == len(set(names)) == 14
