"""What was written down is read again, whatever happened to the file meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.errors import UsageError
from sparring.evaluation.journal import Entry, Journal, Verdict

ENTRY = Entry("two", ("one",), (Verdict(7, "two", 1.5, 20, ("zero_gradient",)), Verdict(3, None, 0.25, 40)))
OTHER = Entry("one", (), (Verdict(1, None, 0.5, 10),), ("look at this",))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "verdicts", "pgd", {"seed": 0, "start": ("uniform",)}, [0.5, 100.0])
    with made.owned():
        made.begin()
        made.add([ENTRY])
    return made


def test_the_entries_of_an_identity_are_those_that_were_added(journal: Journal) -> None:
    with journal.owned():
        journal.begin()
        journal.add([OTHER, ENTRY])
    assert journal.entries() == [ENTRY, OTHER, ENTRY]
    same = Journal(journal.path.parent, "pgd", {"start": ["uniform"], "seed": 0})
    other = Journal(journal.path.parent, "pgd", {"start": ["uniform"], "seed": 1})
    assert same.entries() == [ENTRY, OTHER, ENTRY] and other.entries() == []
    with journal.owned():
        journal.begin(again=True)
    assert journal.entries() == [] and len(journal.path.read_text().splitlines()) == 1


def test_a_line_that_was_cut_or_damaged_costs_itself_alone(journal: Journal) -> None:
    line = json.dumps(OTHER._asdict())
    damaged = [line[: len(line) // 2], '{"attack": 1}', line.replace('"one"', "1"), "[]", line.replace("0.5", '"x"')]
    damaged += [line.replace("null", '"other"'), line.replace("10", "-3"), line.replace("0.5", "NaN")]
    for each in damaged:
        with journal.path.open("a") as file:
            file.write(each)  # without an end, as a killed process leaves it
        with journal.owned():
            journal.begin()
            journal.add([OTHER])
    assert journal.entries() == [ENTRY, *[OTHER] * len(damaged)]


def test_a_bit_that_flips_costs_its_line_and_is_told(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    text = journal.path.read_text()
    flips = {"[7, ": "[5, ", '"two", 1.5, 20': '"two", 1.5, 24', "0.25": "0.35", "[3, null": "[2, null"}
    for old, new in flips.items():
        caplog.clear()
        journal.path.write_text(text.replace(old, new))
        assert journal.path.read_text() != text and journal.entries() == []
        with journal.owned():
            journal.begin()
            journal.add([OTHER])
        assert journal.entries() == [OTHER]
        assert f"{journal.path}: what 1 of its lines say was altered after it was written" in caplog.text
        caplog.clear()
        with journal.owned():
            journal.begin()
        assert journal.entries() == [OTHER] and caplog.text == "", "it is told once"


def test_lines_of_earlier_versions_have_no_digests_and_are_read(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    head = journal.path.read_text().splitlines()[0]
    journal.path.write_text(f"{head}\n{json.dumps(ENTRY._asdict())}\n")
    with journal.owned():
        journal.begin()
        journal.add([OTHER])
    assert journal.entries() == [ENTRY, OTHER] and caplog.text == ""


@pytest.mark.parametrize("first", ["", '{"identi', "garbage\n", '{"identity": {"seed": 5}}\n'])
def test_a_first_line_that_is_gone_or_damaged_is_written_again(journal: Journal, first: str) -> None:
    lines = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text(first + "".join(lines[1:]) if first.endswith("\n") or not first else first)
    with journal.owned():
        journal.begin()
        journal.add([OTHER])
    assert journal.path.read_text().splitlines()[0] == lines[0].strip()
    assert journal.entries()[-1] == OTHER


def test_a_second_writer_and_another_network_are_refused(journal: Journal) -> None:
    with journal.owned(), pytest.raises(UsageError, match="another evaluation"), journal.owned():
        raise AssertionError
    identity = {"seed": 0, "start": ["uniform"]}
    Journal(journal.path.parent, "pgd", identity, [0.5001, 100.01]).require_same()
    for behaviour in ([0.6, 100.0], [0.5, 102.0], [0.5]):
        with pytest.raises(UsageError, match="--again forgets them"):
            Journal(journal.path.parent, "pgd", identity, behaviour).require_same()


def test_verdicts_of_earlier_and_later_attacks_are_joined() -> None:
    early, late = Verdict(7, None, 2.0, 20, ("non_finite_logits",)), Verdict(7, "two", 1.5, 5, ("zero_gradient",))
    assert early.and_then(late) == Verdict(7, "two", 2.0, 25, ("zero_gradient", "non_finite_logits"))
