"""Each test starts in an empty folder of its own; a finished run is made once and copied."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparring.cli import main
from sparring.commands.train import train
from sparring.runs import Run
from tests.support.commands import Said, Say
from tests.support.runs import small


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test starts in an empty folder of its own."""
    before, path = torch.get_num_threads(), list(sys.path)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    torch.set_num_threads(before)
    sys.path[:] = path


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """The command in this process; a traceback without --debug fails the test."""

    def command(*words: object) -> Said:
        monkeypatch.setattr("sys.argv", ["sparring", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err and "bug of Sparring" not in err
        return Said(stop.value.code if isinstance(stop.value.code, int) else 0, out, err)

    return command


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    root = tmp_path_factory.mktemp("finished")
    return train(small(root, engine="sync", run={"name": "finished"}, train={"max_steps": 3})).run.path


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(made, tmp_path / "finished"))


@pytest.fixture
def stopped(finished: Path) -> Path:
    """The same, as if it had been stopped."""
    state = json.loads((finished / "state.json").read_text())
    (finished / "state.json").write_text(json.dumps({**state, "phase": "stopped"}))
    config = (finished / "config.toml").read_text()
    Run(finished).write_config(config.replace("max_steps = 3", "max_steps = 5"))
    return finished
