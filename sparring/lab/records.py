"""Records of a study in a folder that is committed: one line of JSON for each finished point, and a log."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.errors import SparringError
from sparring.lab.results import Record, Results
from sparring.lab.study import Point, Size, Study
from sparring.runs import append, writing

POINTS, LOG = "points.jsonl", "log.txt"


@dataclass(frozen=True)
class Records:
    """The records of one study in one size. A record stays as long as a point of the study has its key."""

    folder: Path

    def read(self) -> dict[str, Record]:
        """All records by key.

        Raises:
            SparringError: a line is damaged.
        """
        path = self.folder / POINTS
        if not path.exists():
            return {}
        found = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(line)
                found[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise SparringError(
                    f"{path}:{number} is damaged. Delete that line: its point is made again."
                ) from error
        return found

    def add(self, point: Point, figures: dict[str, Any], seconds: float, environment: dict[str, Any]) -> Record:
        """Append the record of a finished point, and a line of the log. seconds: that it took."""
        record = {
            "key": point.key,
            "does": point.does,
            "at": dict(point.at),
            "settings": dict(point.settings),
            "options": dict(point.options),
            "needs": [each.key for each in point.needs],
            "figures": figures,
            "seconds": round(seconds, 1),
            "environment": environment,
        }
        self._append(POINTS, json.dumps(record, ensure_ascii=False))
        self.log(f"{point.does} {point}: {seconds:.0f} s")
        return record

    def log(self, line: str) -> None:
        """Append a line with the time."""
        self._append(LOG, f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}")

    def results(self, points: list[Point]) -> Results:
        """Records of these points, with the points' own coordinates, in their order."""
        known = self.read()
        return Results([{**known[each.key], "at": dict(each.at)} for each in points if each.key in known])

    def _append(self, name: str, line: str) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        append(self.folder / name, line)


def records_of(study: Study, size: Size, root: Path) -> Records:
    """Where the records of a study in a size stand."""
    return Records(root / study.name / size)


def write(path: Path, content: str | bytes) -> None:
    """Write or replace a file of a study.

    Raises:
        SparringError: the folder cannot be written to.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
