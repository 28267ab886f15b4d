"""The files of methods of the user's own (`path.py:object`): a run keeps their text, and goes on with the same."""

from __future__ import annotations

from sparring import plugins
from sparring.config import NAMED, Config
from sparring.errors import UsageError
from sparring.runs import Run


def sources_of(config: Config) -> dict[str, str]:
    """Path -> text of the files that the recipe names.

    Raises:
        UsageError: one of them cannot be read.
    """
    return plugins.source_files(getattr(config, group).name for group in NAMED)


def record_sources(run: Run, config: Config) -> None:
    """Put them into the run's folder."""
    run.write_json(run.sources.name, sources_of(config))


def require_same_sources(run: Run) -> None:
    """Go on with the texts that the run began with, also where the files are gone.

    Raises:
        UsageError: a file says something else now.
    """
    began_with: dict[str, str] = run.read_object(run.sources.name)
    for path, text in began_with.items():
        if plugins.text_of(path) not in (None, text):
            raise UsageError(
                f"{path} has changed since the run began, and with it the trained function. Put it back ({run.sources} "
                f"has its text), or start a new run."
            )
    plugins.install(began_with)
