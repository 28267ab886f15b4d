"""The report of a run or of several side by side: one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sparring.commands.evaluate import names_of
from sparring.errors import UsageError
from sparring.report.parts import Section
from sparring.report.records import Records, read_records
from sparring.report.sections import (
    allocator_section,
    classes_section,
    curves_section,
    figures_section,
    guards_section,
    learning_section,
    speed_section,
    staleness_section,
)
from sparring.report.settings import commands_section, environment_section, settings_section
from sparring.report.writing import page, require_writable, write
from sparring.runs import Run

FILE = "report.html"
SECTIONS: tuple[Callable[[Sequence[Records]], Section], ...] = (
    *(figures_section, learning_section, curves_section, classes_section, staleness_section, speed_section),
    *(allocator_section, guards_section, settings_section, environment_section),
)


def report_runs(runs: Sequence[Run], out: Path | None = None) -> Path:
    """Write the report and return its path; by default in the folder of the run, of several runs here.

    Raises:
        UsageError: a run is given twice, or the file is none that may be written.
        SparringError: it cannot be written.
    """
    paths = [run.path for run in runs]
    if len(set(paths)) < len(paths):
        raise UsageError("a run is given twice; name each run once.")
    file = (out or (paths[0] / FILE if len(paths) == 1 else Path(FILE))).expanduser()
    require_writable(file)
    records = [read_records(run, name) for run, name in zip(runs, names_of(runs), strict=True)]
    command = shlex.join(["sparring", "report", *map(str, paths), "-o", str(file)])
    sections = [make(records) for make in SECTIONS]
    write(file, page(_title(records), [*sections, commands_section(records, command)]))
    return file


def _title(records: Sequence[Records]) -> str:
    return records[0].name if len(records) == 1 else " · ".join(each.name for each in records)
