"""The pages of results: what a study found is put between its marks, and its charts beside the page."""

from __future__ import annotations

import re
from pathlib import Path

from sparring.errors import SparringError, UsageError
from sparring.lab.figures import svg_and_png
from sparring.lab.records import write
from sparring.lab.results import Results
from sparring.lab.study import Size, Study
from sparring.lab.tables import summary
from sparring.runs import write_atomically

PICTURES = "pictures"
BEGIN, END = "<!-- lab: {name} {size} -->", "<!-- end of {name} -->"
MARKED = re.compile(r"<!-- lab: (?P<name>[a-z0-9-]+) (?P<size>quick|full) -->")


def drawn(study: Study, results: Results, folder: Path) -> list[str]:
    """Write the study's charts as SVG and PNG into a folder; returns the names of those that have their points."""
    names = []
    for name, chart in study.charts.items():
        try:
            spec = chart(results)
        except LookupError:
            continue  # not run
        if not spec["data"]["values"]:
            continue
        svg, png = svg_and_png(spec)
        write(folder / f"{name}.svg", svg)
        write(folder / f"{name}.png", png)
        names.append(name)
    return names


def part(study: Study, size: Size, results: Results, wanted: int, charts: list[str]) -> str:
    """What stands between the study's marks on a page."""
    lines = summary(study, size, results, wanted)
    for name in charts:
        lines += ["", f"![{study.name}: {name}]({PICTURES}/{study.name}-{size}-{name}.svg)"]
    return "\n".join(["", *lines, "", ""])


def marks_of(page: Path) -> list[tuple[str, Size]]:
    """The studies that a page shows, each with its size."""
    found = MARKED.finditer(page.read_text())
    return [(each["name"], "full" if each["size"] == "full" else "quick") for each in found]


def put(page: Path, study: Study, size: Size, text: str) -> bool:
    """Put a study's part between its marks; whether the page changed.

    Raises:
        SparringError: the page has no such marks.
    """
    before = page.read_text()
    begin, end = BEGIN.format(name=study.name, size=size), END.format(name=study.name)
    if begin not in before or end not in before:
        raise SparringError(f"{page} lacks the lines {begin} and {end}.")
    head, _, rest = before.partition(begin)
    _, _, tail = rest.partition(end)
    after = f"{head}{begin}\n{text}{end}{tail}"
    if after != before:
        write_atomically(page, after)
    return after != before


def pages_in(folder: Path) -> list[Path]:
    """The pages of a folder.

    Raises:
        UsageError: there is none.
    """
    found = sorted(folder.glob("*.md"))
    if not found:
        raise UsageError(f"--pages {folder}: no page (*.md) there.")
    return found
