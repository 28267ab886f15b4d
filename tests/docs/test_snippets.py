"""The Python blocks of the pages run as they stand, one after the other, in an empty folder with a few images."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.examples import ROOT
from tests.support.pages import python_of

ELSEWHERE = {"extending.md"}  # tests/docs/test_extending.py
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ELSEWHERE]


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    for folder, number in itertools.product(("val/cat", "val/dog"), range(2)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", python_of(page)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
