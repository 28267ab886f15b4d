"""The files of methods of the user's own (`path.py:object`, `module:object`) and of the modules that they import: a run
keeps their text, and goes on with the same."""

from __future__ import annotations

from collections.abc import Mapping

from sparring import plugins
from sparring.config import NAMED, Config
from sparring.errors import UsageError
from sparring.runs import Run


def sources_of(config: Config) -> dict[str, str]:
    """Path -> text of the files that the recipe names, of its modules, and of those that they import.

    Raises:
        UsageError: one of them cannot be read.
    """
    return plugins.source_files(_names(config))


def record_sources(run: Run, config: Config) -> None:
    """Put them into the run's folder."""
    run.write_json(run.sources.name, sources_of(config))


def require_same_sources(run: Run) -> None:
    """Go on with the texts that the run began with, also where the files are gone.

    Raises:
        UsageError: a file says something else now.
    """
    began_with: dict[str, str] = run.read_object(run.sources.name)
    for path in began_with:
        _require_unchanged(run, path, began_with, "or start a new run")
    plugins.install(began_with)


def use_sources(run: Run, config: Config) -> None:
    """Use the texts of the files that the recipe names, whatever they say now; Python finds modules itself, and so they
    must not have changed.

    Raises:
        UsageError: a module says something else now.
    """
    began_with: dict[str, str] = run.read_object(run.sources.name)
    plugins.install(began_with)
    for path in began_with.keys() - plugins.named_files(_names(config)):
        _require_unchanged(run, path, began_with, "or name it as path.py:object in the next run")


def _names(config: Config) -> list[str]:
    return [getattr(config, group).name for group in NAMED]


def _require_unchanged(run: Run, path: str, began_with: Mapping[str, str], otherwise: str) -> None:
    if plugins.text_of(path) not in (None, began_with[path]):
        raise UsageError(
            f"{path} has changed since the run began, and with it the trained function. Put it back ({run.sources} has "
            f"its text), {otherwise}."
        )
