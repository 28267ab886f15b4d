"""The command's work: do studies, list them, and draw what they found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.errors import SparringError, UsageError
from sparring.lab import pages, running
from sparring.lab.records import records_of, write
from sparring.lab.results import Results
from sparring.lab.running import Done, Progress
from sparring.lab.studies import STUDIES, study_named
from sparring.lab.study import Point, Size, Study
from sparring.lab.tables import summary, verdicts
from sparring.lab.work import Place
from sparring.machine.threads import cores
from sparring.runs import locked

TABLE, LOCK = "table.md", "lab.lock"


@dataclass(frozen=True)
class Lab:
    """Where studies are made and kept.

    Args:
        size, seeds: of the studies.
        results: folder of the records; they are meant to be committed.
        place: where the data and the runs are.
    """

    size: Size
    seeds: tuple[int, ...]
    results: Path
    place: Place

    def points_of(self, study: Study) -> list[Point]:
        """The points of a study."""
        return study.points(self.size, self.seeds)

    def state_of(self, study: Study) -> dict[str, Any]:
        """How far a study is, and what it found."""
        points = self.points_of(study)
        found = study.derived(records_of(study, self.size, self.results).results(points))
        return {
            "study": study.name,
            "paper": study.paper,
            "shows": study.shows,
            "question": study.question,
            "points": len(points),
            "done": len(found),
            "hours": round(sum(record["seconds"] for record in found) / 3600, 2),
            "claims": [
                {"claim": each.text, "paper": each.paper, "ours": each.ours, "verdict": each.word}
                for each in verdicts(study, found)
            ],
        }


def chosen(names: Sequence[str]) -> list[Study]:
    """The studies of these names, or every one for "all".

    Raises:
        UsageError: there is none of a name.
    """
    if "all" in names:
        return list(STUDIES.values())
    return [study_named(name) for name in names]


def do(
    lab: Lab,
    studies: Sequence[Study],
    progress: Progress,
    *,
    at_once: int | None = None,
    address: str | None = None,
    num_gpus: float = 0.0,
) -> dict[str, Done]:
    """Do what is missing of the studies, and draw them.

    Args:
        at_once: points in work; by default one for each core, or what the cluster has room for.
        address: of a Ray cluster. None: processes of this machine.
        num_gpus: GPUs that a point takes on the cluster.
    """
    wanted = [
        running.StudyRun(study.name, lab.points_of(study), records_of(study, lab.size, lab.results))
        for study in studies
    ]
    with ExitStack() as stack:
        busy = f"{lab.place.runs} is in use by another `sparring lab`. Wait for its end, or give other --runs."
        stack.enter_context(locked(lab.place.runs / LOCK, busy))
        executor: running.Executor
        if address is None:
            room = at_once or cores()
            executor = stack.enter_context(running.processes(room))
        else:
            executor, room = stack.enter_context(running.cluster(address, num_gpus))
            room = at_once or room
        ends = running.run(wanted, running.known_in(lab.results), lab.place, executor, room, progress)
    for study in studies:
        draw(lab.results, study, lab.size)
    return ends


def draw(root: Path, study: Study, size: Size) -> list[str]:
    """Write the study's table and charts beside its records; returns the names of the charts."""
    folder = records_of(study, size, root).folder
    write(folder / TABLE, table_of(root, study, size))
    return pages.drawn(study, found_in(root, study, size)[0], folder) if drawable() else []


def table_of(root: Path, study: Study, size: Size) -> str:
    """What was found, as Markdown."""
    return "\n".join(summary(study, size, *found_in(root, study, size))) + "\n"


def found_in(root: Path, study: Study, size: Size) -> tuple[Results, int]:
    """The results of a study for all seeds that were run, and how many points that would be."""
    records = records_of(study, size, root)
    seeds = {record["at"]["seed"] for record in records.read().values() if "seed" in record["at"]}
    points = study.points(size, sorted(seeds) or (0,))
    return study.derived(records.results(points)), len(points)


def drawable() -> bool:
    """Whether charts can be drawn."""
    from sparring.report.drawing import installed

    return installed()


def draw_pages(results: Path, folder: Path) -> list[str]:
    """Draw every study into the pages of a folder that have its marks; returns the pages that changed.

    Raises:
        UsageError: no page there, or one names an unknown study. SparringError: charts cannot be drawn.
    """
    if not drawable():
        raise SparringError("charts cannot be drawn: vl-convert is not installed. pip install 'sparring[report]'.")
    changed = []
    for page in pages.pages_in(folder):
        for name, size in pages.marks_of(page):
            study = study_named(name)
            charts, source = draw(results, study, size), records_of(study, size, results).folder
            for chart in charts:
                picture = folder / pages.PICTURES / f"{study.name}-{size}-{chart}.svg"
                picture.parent.mkdir(exist_ok=True)
                shutil.copyfile(source / f"{chart}.svg", picture)
            if pages.put(page, study, size, pages.part(study, size, *found_in(results, study, size), charts)):
                changed.append(f"{page}: {name}")
    return changed


def require_data(place: Place, studies: Sequence[Study], size: Size) -> None:
    """Refuse before anything is begun what lacks its data.

    Raises:
        UsageError: a data set is not there.
    """
    from sparring.config import load
    from sparring.data import load as load_data

    tried = set()
    for study in studies:
        for point in study.points(size, (0,)):
            name = point.settings.get("data.name")
            if name is None or name in tried:
                continue
            tried.add(name)
            limit = point.settings.get("data.limit")  # a folder is made of so many images
            try:
                settings = place.with_data({"data.name": name, "data.limit": limit, "data.download": False})
                load_data(load(None, settings).data, "test")
            except SparringError as error:
                raise UsageError(f"{study.name} needs {name}: {error}") from error
