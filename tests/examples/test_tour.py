"""The tour is a notebook that marimo finds sound, can be imported, and runs as a script."""

from __future__ import annotations

import os
import subprocess
import sys

import marimo
import pytest

from examples.tour import app
from tests.support.examples import ROOT

TOUR = str(ROOT / "examples" / "tour.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_WAIT_POLICY": "passive"}


def test_it_is_an_app() -> None:
    assert isinstance(app, marimo.App)


@pytest.mark.parametrize("command", [["-m", "marimo", "check", "--strict", TOUR], [TOUR, "--short"]])
def test_marimo_finds_it_sound_and_it_runs_as_a_script(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
