"""The sections of a report on what was run, where, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from sparring.config import Config, flatten
from sparring.report.parts import Row, Section, Table, text
from sparring.report.records import Records

OF_THE_FOLDER = ("run.",)  # differ between all runs and say nothing of what was trained
PASSED = "python:"  # an object that was passed from Python


def settings_section(runs: Sequence[Records]) -> Section:
    """Every setting; marked where runs differ, or for one run where it is not the default."""
    missing = tuple(f"{each.name}: its settings cannot be read." for each in runs if not each.settings)
    known = [records for records in runs if records.settings]
    if not known:
        return Section("settings", "Settings", missing, files=_recipes(runs))
    rows = _compared(known) if len(known) > 1 else _beside_defaults(known[0])
    marked = tuple(row for row in rows if row.marked)
    if marked:
        note = "Marked: the runs differ." if len(known) > 1 else "Marked: not the default."
    else:
        note = "All runs have the same settings." if len(known) > 1 else "Every setting has its default."
    columns = ("setting", *(each.name for each in known)) if len(known) > 1 else ("setting", "value", "default")
    several = "Settings that differ" if len(known) > 1 else "Settings that are not the default"
    differing = (Table(several, columns, marked),) if marked else ()
    tables = (*differing, Table("All settings", columns, rows))
    return Section("settings", "Settings", (*missing, note), tables=tables, files=_recipes(runs))


def _compared(runs: Sequence[Records]) -> tuple[Row, ...]:
    names = dict.fromkeys(name for records in runs for name in records.settings)
    return tuple(
        _row(name, [records.settings.get(name) for records in runs])
        for name in names
        if not name.startswith(OF_THE_FOLDER)
    )


def _row(name: str, values: Sequence[Any]) -> Row:
    return Row((name, *map(text, values)), marked=any(value != values[0] for value in values))


def _beside_defaults(records: Records) -> tuple[Row, ...]:
    defaults = flatten(Config())
    shown = {name: value for name, value in records.settings.items() if not name.startswith(OF_THE_FOLDER)}
    return tuple(_row(name, [value, defaults.get(name)]) for name, value in shown.items())


def _recipes(runs: Sequence[Records]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{records.name}: config.toml", records.recipe) for records in runs if records.recipe)


def environment_section(runs: Sequence[Records]) -> Section:
    """Versions and machines; marked where runs differ."""
    flat = [_flat(records.environment) for records in runs]
    names = [name for name in dict.fromkeys(name for each in flat for name in each) if name != "time"]
    rows = [_row(name, [each.get(name) for each in flat]) for name in names]
    began = Row(("begun", *(text(each.get("time")) for each in flat)))
    columns = ("", *(records.name for records in runs))
    notes = tuple(f"{each.name} has no environment.json." for each in runs if not each.environment)
    data = [_flat(records.data) for records in runs]
    of_data = [
        _row(name, [each.get(name) for each in data]) for name in dict.fromkeys(n for each in data for n in each)
    ]
    tables = [Table("Where it ran", columns, (began, *rows))]
    tables += [Table("What it was trained on", columns, tuple(of_data))] if of_data else []
    return Section("environment", "Environment", notes, tables=tuple(tables))


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def commands_section(runs: Sequence[Records], command: str) -> Section:
    """The commands that make the runs, and this report, again."""
    notes = [note for records in runs for note in _cautions(records)]
    found = [(f"{records.name}: train it again", _again(records)) for records in runs]
    return Section("again", "Make it again", tuple(notes), commands=(*found, ("This report", command)))


def _cautions(records: Records) -> list[str]:
    found = []
    if any(isinstance(value, str) and value.startswith(PASSED) for value in records.settings.values()):
        found.append(f"{records.name}: a model or data were passed from Python; the command alone cannot make them.")
    if records.sources:
        found.append(
            f"{records.name} uses files of its own, whose text is in its sources.json: {', '.join(records.sources)}."
        )
    if records.phases:
        found.append(f"{records.name} was made longer by a resume; phases.json says at which step.")
    if records.state.engine == "ray" and records.settings.get("staleness.finish") == "off":
        found.append(
            f"{records.name}: the order of arrivals depends on timing, so the weights will not be the same bits."
        )
    return found


def _again(records: Records) -> str:
    """Commands; recipe.toml is the text of config.toml, which the report holds."""
    versions = records.environment.get("packages")
    packages = versions if isinstance(versions, dict) else {}
    pins = [f"{name}=={each}".split("+")[0] for name, each in packages.items() if each and name != "sparring"]
    name = shlex.quote(f"{records.run.path.name}-again")
    lines = [f"pip install {' '.join(map(shlex.quote, pins))}"] if pins else []
    lines += ["# recipe.toml: the text of config.toml, under Settings", f"sparring train recipe.toml --run.name {name}"]
    return "\n".join(lines)
