"""The one HTML file of a report: sections, charts and pictures in a template, with nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from sparring.errors import UsageError
from sparring.report import charts, drawing
from sparring.report.parts import Chart, Section
from sparring.runs import write_atomically

PAGE = Path(__file__).with_name("page")
MARK = '<meta name="generator" content="sparring report">'  # only such a file is written over


def page(title: str, sections: Sequence[Section], *, made: str | None = None) -> str:
    """The page. Everything that comes from a run is escaped, and only the page's own scripts may run.

    Args:
        made: when; by default now.
    """
    drawable = charts.installed() and drawing.installed()
    scripts = [drawing.scripts(), (PAGE / "page.js").read_text()] if drawable and _charts(sections) else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        mark=MARK,
        made=made or time.strftime("%Y-%m-%d %H:%M %Z"),
        sections=sections,
        svg={each.name: drawing.svg(each.spec or {}, each.name) for each in _charts(sections)} if drawable else {},
        drawable=drawable,
        install=drawing.INSTALL,
        style=(PAGE / "page.css").read_text(),
        scripts=scripts,
        policy=_policy(scripts),
    )


def _charts(sections: Sequence[Section]) -> list[Chart]:
    return [chart for section in sections for chart in section.charts if chart.spec is not None]


def _policy(scripts: Sequence[str]) -> str:
    """Content security policy: nothing is loaded, and no script runs but those of this page."""
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in digests) or "'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def require_writable(path: Path) -> None:
    """Refuse a file that is no report, and a folder that is not there, before any work is done.

    Raises:
        UsageError: about --out.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--out {path}: give the path of an HTML file in an existing folder.")
    if path.exists() and not (path.is_file() and _is_report(path)):
        raise UsageError(f"--out {path}: the file exists and is no report; it is not overwritten. Give another name.")


def _is_report(path: Path) -> bool:
    with path.open(errors="replace") as file:
        return MARK in file.read(2000)


def write(path: Path, text: str) -> None:
    """Write the page; an earlier report of that name is replaced."""
    write_atomically(path, text)
