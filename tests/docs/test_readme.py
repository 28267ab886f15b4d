"""README.md: its Python runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import ROOT
from tests.support.pages import python_of

PAGE = ROOT / "README.md"


@pytest.mark.ray
def test_its_python_runs_as_it_stands(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [sys.executable, "-c", python_of(PAGE)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    evaluated, trained = done.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+% \([\d.]+, [\d.]+\) of 20 \(PGD-50, 3 restarts, step .*, linf 0\.03137\)", evaluated)
    run, accuracy, _ = trained.split(maxsplit=2)
    assert (
        (Path(run) / "summary.json").is_file() and Path(run).parent == tmp_path / "runs" and 0 <= float(accuracy) <= 1
    )


def test_its_links_lead_to_files_that_there_are() -> None:
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE.read_text())
    assert "docs/extending.md" in linked
    assert [path for path in linked if not (ROOT / path).exists()] == []
