"""Tables have mean and range of the seeds, the paper's figure and how far ours is from it."""

from __future__ import annotations

from sparring.lab.results import Results
from sparring.lab.study import Column, Table
from sparring.lab.tables import figures_table, spread, summary
from tests.support.studies import STUDY, record

RESULTS = Results(
    [
        record("train", {"rate": 0.01, "seed": 0}, clean_accuracy=0.9, steps=6),
        record("train", {"rate": 0.01, "seed": 1}, clean_accuracy=0.96, steps=6),
        record("train", {"rate": 0.001, "seed": 0}, clean_accuracy=0.5, steps=6),
        record("evaluate", {"rate": 0.001, "seed": 0}, clean_accuracy=0.5),
    ]
)


def test_a_row_has_the_seeds_and_the_papers_figure() -> None:
    lines = figures_table(STUDY.tables[0], RESULTS)
    assert lines[0] == "| rate | seeds | clean | paper | difference | steps |"
    assert lines[2] == "| 0.01 | 2 | 93.0 (90.0 to 96.0) | 99.0 | -6.0 | 6 (6 to 6) |"
    assert lines[3] == "| 0.001 | 1 | 50.0 |  |  | 6 |"
    near = Table(("rate",), (Column("clean_accuracy", "clean"),), paper={(0.01,): {"clean_accuracy": 92.0}})
    assert "| 92.0 | agrees |" in figures_table(near, RESULTS)[2]


def test_figures_of_other_data_stand_without_a_difference() -> None:
    beside = Table(
        ("rate",), (Column("clean_accuracy", "clean"),), paper={(0.01,): {"clean_accuracy": 92}}, compared=False
    )
    lines = figures_table(beside, RESULTS)
    assert lines[0] == "| rate | seeds | clean | paper |"
    assert lines[2] == "| 0.01 | 2 | 93.0 (90.0 to 96.0) | 92.0 |" and lines[3] == "| 0.001 | 1 | 50.0 |  |"


def test_networks_at_chance_are_marked() -> None:
    results = Results([record("train", {"rate": rate, "seed": 0}, clean_accuracy=rate) for rate in (0.11, 0.9)])
    lines = figures_table(STUDY.tables[0], results)
    assert lines[2].startswith("| 0.11 (at chance: did not train) |") and lines[3].startswith("| 0.9 |")


def test_what_is_missing_is_a_dash_and_a_bar_is_escaped() -> None:
    lacking = figures_table(Table(("rate",), (Column("robust", "robust | 2"),)), RESULTS)
    assert lacking[0] == "| rate | seeds | robust \\| 2 |" and lacking[2] == "| 0.01 | 2 | – |"
    assert (spread([], 1), spread([2.25], 1), spread([1, 3], 0)) == ("–", "2.2", "2 (1 to 3)")


def test_a_summary_says_what_was_run_and_what_agrees() -> None:
    text = "\n".join(summary(STUDY, "quick", RESULTS, 5))
    assert text.startswith("Digits, six steps. (4 of 5 points, seeds 0, 1.)")
    assert "| a higher rate is better | by far | 93 against 50 | agrees |" in text
    nothing = "\n".join(summary(STUDY, "full", Results([]), 3))
    assert (
        "six steps, too. (0 of 3 points.)" in nothing and "| not run | not run |" in nothing and "rate |" not in nothing
    )
