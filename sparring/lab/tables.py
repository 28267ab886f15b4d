"""What a study found, as text: its tables with the paper's figures beside ours, and what agrees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

from sparring.lab.results import Results
from sparring.lab.study import UNTRAINED, Column, Size, Study, Table, Verdict

AT_CHANCE = " (at chance: did not train)"
NEAR = 2.0  # points within which an accuracy agrees with the paper's


def verdicts(study: Study, results: Results) -> list[Verdict]:
    """Each claim of the study beside our figure."""
    return [claim.verdict(results) for claim in study.claims]


def claims_table(found: Sequence[Verdict]) -> list[str]:
    """The claims as Markdown."""
    rows = ((each.text, each.paper, each.ours or "not run", each.word) for each in found)
    return markdown(("statement", "the paper's figure", "ours", "verdict"), rows)


def figures_table(table: Table, results: Results) -> list[str]:
    """A row for each combination of coordinates: mean and range of each figure over the seeds, and the paper's."""
    with_paper = [column for column in table.columns if any(column.name in each for each in table.paper.values())]
    heads, beside = [*table.by, "seeds"], ("paper", "difference") if table.compared else ("paper",)
    for column in table.columns:
        heads += [column.title, *(beside if column in with_paper else ())]
    rows = []
    for coordinates, records in _grouped(table, results).items():
        cells = [f"{value:g}" if isinstance(value, float) else str(value) for value in coordinates]
        cells[0] += AT_CHANCE if _did_not_train(records) else ""
        cells.append(str(len(records)))
        for column in table.columns:
            values = _values(column, records)
            cells.append(spread(values, column.digits))
            if column in with_paper:
                cells += _beside(table.paper.get(coordinates, {}).get(column.name), values, column.digits)[
                    : len(beside)
                ]
        rows.append(cells)
    return markdown(heads, rows)


def _grouped(table: Table, results: Results) -> dict[tuple[str | int | float, ...], Results]:
    groups: dict[tuple[str | int | float, ...], list[dict[str, object]]] = {}
    for record in results.of(table.does):
        if all(name in record["at"] for name in table.by):
            groups.setdefault(tuple(record["at"][name] for name in table.by), []).append(record)
    return {coordinates: Results(records) for coordinates, records in groups.items()}


def _did_not_train(records: Results) -> bool:
    """Whether the networks are at chance, so that no other figure of theirs says anything."""
    clean = _values(Column("clean_accuracy", ""), records)
    return bool(clean) and max(clean) <= UNTRAINED


def _values(column: Column, records: Results) -> list[float]:
    try:
        return [value * (100 if column.share else 1) for value in records.values(column.name)]
    except LookupError:
        return []


def _beside(paper: float | None, values: Sequence[float], digits: int) -> list[str]:
    """The paper's figure, and how far ours is from it."""
    if paper is None:
        return ["", ""]
    if not values:
        return [f"{paper:.{digits}f}", ""]
    difference = mean(values) - paper
    return [f"{paper:.{digits}f}", "agrees" if abs(difference) <= NEAR else f"{difference:+.{digits}f}"]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean (least to greatest); the value alone if there is one; – without any."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table; a bar in a cell is escaped."""
    heads = list(heads)
    lines = [_row(heads), _row(["---"] * len(heads))]
    return lines + [_row(row) for row in rows]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(study: Study, size: Size, results: Results, wanted: int) -> list[str]:
    """The whole of a study as Markdown, without its charts: what it was, what agrees, its tables."""
    seeds = sorted({record["at"]["seed"] for record in results if "seed" in record["at"]})
    counts = f"{len(results)} of {wanted} points" + (f", seeds {', '.join(map(str, seeds))}" if seeds else "")
    lines = [f"{study.setting[size]} ({counts}.)", ""]
    if study.claims:
        lines += [*claims_table(verdicts(study, results)), ""]
    for table in study.tables:
        if len(results.of(table.does)):
            lines += [*([f"**{table.title}**", ""] if table.title else []), *figures_table(table, results), ""]
    return lines[:-1]
