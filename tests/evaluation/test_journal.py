"""What was written down is read again, whatever happened to the file meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.errors import SparringError, UsageError
from sparring.evaluation.journal import Entry, Journal, Verdict

ENTRY = Entry(("one", "two"), ("zero",), (Verdict(7, "two", 1.5, 20, ("zero_gradient",)), Verdict(3, None, 0.25, 40)))
OTHER = Entry(("one",), (), (Verdict(1, None, 0.5, 10),), ("look at this",))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "verdicts", "pgd", {"seed": 0, "start": ("uniform",)})
    with made.owned():
        made.add(ENTRY)
    return made


def test_the_entries_of_an_identity_are_those_that_were_added(journal: Journal) -> None:
    with journal.owned():
        journal.add(OTHER)
    assert journal.entries() == [ENTRY, OTHER]
    same = Journal(journal.path.parent, "pgd", {"start": ["uniform"], "seed": 0})
    other = Journal(journal.path.parent, "pgd", {"start": ["uniform"], "seed": 1})
    assert same.entries() == [ENTRY, OTHER] and other.entries() == []
    journal.forget()
    assert journal.entries() == []


def test_a_line_that_was_cut_or_damaged_costs_itself_alone(journal: Journal) -> None:
    line = json.dumps(OTHER._asdict())
    for damaged in (
        line[: len(line) // 2],
        '{"attacks": 1}',
        line.replace('"one"', "1"),
        "[]",
        line.replace("0.5", '"x"'),
    ):
        with journal.path.open("a") as file:
            file.write(damaged)  # without an end, as a killed process leaves it
        with journal.owned():
            journal.add(OTHER)
    assert journal.entries() == [ENTRY, *[OTHER] * 5]


def test_a_file_of_something_else_and_a_second_writer_are_refused(journal: Journal) -> None:
    with journal.owned(), pytest.raises(UsageError, match="another evaluation"), journal.owned():
        raise AssertionError
    journal.path.write_text(journal.path.read_text().replace('"seed": 0', '"seed": 5'))
    with pytest.raises(SparringError, match="something else than its name says"):
        journal.entries()


def test_verdicts_of_earlier_and_later_attacks_are_joined() -> None:
    early, late = Verdict(7, None, 2.0, 20, ("non_finite_logits",)), Verdict(7, "two", 1.5, 5, ("zero_gradient",))
    assert early.and_then(late) == Verdict(7, "two", 2.0, 25, ("zero_gradient", "non_finite_logits"))
