"""A command's streams may be closed or full: what it is for is done all the same."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import CHEAP, TIMEOUT_S, Say, command

FULL = Path("/dev/full")


def trained(root: Path, redirected: str) -> subprocess.CompletedProcess[str]:
    words = command("train", "--engine", "sync", "--train.max_steps", "2", "--run.root", root, "--name", "r", *CHEAP)
    line = f'exec "$@" --json {redirected}'
    return subprocess.run(["/bin/sh", "-c", line, "sh", *words], capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_standard_error_that_takes_nothing_costs_nothing_else(redirected: str, tmp_path: Path) -> None:
    done = trained(tmp_path, redirected)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["steps"] == 2


def test_without_standard_output_a_run_ends_as_it_should(tmp_path: Path) -> None:
    done = trained(tmp_path, ">&-")
    assert (done.returncode, done.stdout) == (0, "") and "bug" not in done.stderr
    assert json.loads((tmp_path / "r" / "state.json").read_text())["phase"] == "finished"


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_data_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = trained(tmp_path, ">/dev/full")
    assert done.returncode == 1 and "No space left on device" in done.stderr and "bug" not in done.stderr


@pytest.mark.parametrize("path", ["loop", "~nobody-of-this-name/x"])
def test_a_path_that_leads_nowhere_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    said = say("status", path)
    assert said.code == 2 and "bug" not in said.complaint


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    ],
)
def test_an_encoding_without_the_letter_of_the_radius_costs_no_figure(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    words = ["train", "--engine", "sync", "--train.max_steps", "2", "--run.root", tmp_path, "--name", "naïve", *CHEAP]
    done = subprocess.run(
        command(*words), capture_output=True, env={**os.environ, **environment}, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0 and b"robust accuracy" in done.stdout and b"bug" not in done.stderr
    assert 'name = "naïve"' in (tmp_path / "naïve" / "config.toml").read_text(encoding="utf-8")
