"""The package's records go into the run's file, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.machine.logs import to_file


@pytest.fixture(autouse=True)
def handlers_and_level_as_before() -> Iterator[None]:
    logger = logging.getLogger("sparring")
    handlers, level = list(logger.handlers), logger.level
    yield
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_records_of_every_module_are_appended_once_with_time_level_and_module(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.log"
    path.parent.mkdir()
    path.write_text("what an earlier process wrote\n")
    to_file(path)
    to_file(path)
    logging.getLogger("sparring.trainer.session").warning("rolled back to step %d", 3)
    logging.getLogger("sparring.trainer.session").debug("not shown")
    logging.getLogger("another.package").warning("not ours")
    first, line = path.read_text().splitlines()
    assert first == "what an earlier process wrote"
    assert line[:4].isdecimal() and line.endswith(" WARNING sparring.trainer.session rolled back to step 3")


def test_two_runs_of_one_process_have_a_file_each_and_the_folder_is_made(tmp_path: Path) -> None:
    paths = [tmp_path / name / "run.log" for name in ("one", "other")]
    for path in paths:
        to_file(path, logging.DEBUG)
    logging.getLogger("sparring").debug("seen by both")
    assert all(path.read_text().endswith("DEBUG sparring seen by both\n") for path in paths)
