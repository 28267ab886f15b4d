"""The report of a run or of several side by side: one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from sparring.commands.attacking import Opened, open_for_attack
from sparring.commands.evaluate import names_of
from sparring.errors import SparringError, UsageError
from sparring.evaluation.robustness import describe
from sparring.evaluation.showing import Kind
from sparring.report.gallery import count_for, pictures
from sparring.report.parts import Gallery, Section
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

Progress = Callable[[str], None]
FILE = "report.html"
GALLERY_AT = 3  # behind the stronger attacks
KINDS = (
    "Robust: right before and after the attack; broken: no longer right; wrong: not right before. In the picture of "
    "the perturbation grey is no change."
)
SECTIONS: tuple[Callable[[Sequence[Records]], Section], ...] = (
    *(figures_section, learning_section, curves_section, classes_section, staleness_section, speed_section),
    *(allocator_section, guards_section, settings_section, environment_section),
)


def report_runs(
    runs: Sequence[Run],
    out: Path | None = None,
    changes: dict[str, str] | None = None,
    *,
    gallery: bool = True,
    progress: Progress = lambda text: None,
) -> Path:
    """Write the report and return its path; by default in the folder of the run, of several runs here.

    Args:
        changes: settings of the attack and the data that the gallery is made with.

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
    if gallery:
        sections.insert(GALLERY_AT, gallery_section(records, changes or {}, progress))
    progress("drawing the charts")
    write(file, page(_title(records), [*sections, commands_section(records, command)]))
    return file


def _title(records: Sequence[Records]) -> str:
    return records[0].name if len(records) == 1 else " · ".join(each.name for each in records)


def gallery_section(runs: Sequence[Records], changes: dict[str, str], progress: Progress) -> Section:
    """Attacked test images of each run, by the attack of its evaluation: the same images for runs of the same data."""
    notes, galleries = [], []
    places: dict[str, list[int]] = {}  # by the fingerprint of the test set
    for records in runs:
        progress(f"{records.name}: attacking images for the gallery")
        try:
            opened = open_for_attack(records.run, changes)
        except SparringError as error:
            notes.append(f"{records.name} has no gallery: {error}")
            continue
        gallery, warnings = _gallery(records, opened, places, len(runs))
        galleries.append(gallery)
        notes += [f"{records.name}: {warning}" for warning in warnings]
    return Section("gallery", "Gallery", tuple(notes), galleries=tuple(galleries))


def _gallery(
    records: Records, opened: Opened, places: dict[str, list[int]], runs: int
) -> tuple[Gallery, tuple[str, ...]]:
    """A run's gallery, and what may make its kinds of images wrong."""
    data = opened.made.test.fingerprint
    if data in places:
        found = opened.attacked(places[data])
        how = f"The same {len(found.shown)} test images as above"
    else:
        found = opened.look(count_for(runs))
        counts = found.counts
        places[data] = [each.place for each in found.shown]
        of_kind = ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind))
        how = f"Chosen from {sum(counts.values())} test images that were attacked, the classes taking turns ({of_kind})"
    weights = " ".join(opened.made.named().values())
    caption = f"{how}; {describe(opened.attack)}; weights: {weights}. {KINDS}"
    made = Gallery(records.name, caption, pictures(found.shown, opened.radius, opened.named, runs))
    return made, (*opened.made.warnings, *found.warnings)
