"""The plan for a GPU: each part is a real command, time is kept, and the page is drawn from the record."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.sharing import pace

STREAMS = next(part for part in gpu.PARTS if part.module == "benchmarks.streams")


def test_a_part_leaves_its_table(tmp_path: Path) -> None:
    found = gpu.measured(STREAMS, True, None, 300)
    assert found["state"] == "done" and found["seconds"] > 0
    assert [line for line in found["lines"] if "one after the other" in line][1].endswith("| 1.00 (1.00 to 1.00) |")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n")
    gpu.draw({"machine": "a machine", "parts": [found]}, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "Measured on a machine." in text and "| attack alone |" in text and "done" in text


def test_time_and_failures_are_kept() -> None:
    late = gpu.measured(
        replace(STREAMS, module="timeit", small=("-n", "1", "-r", "1", "import time; time.sleep(60)")), True, None, 6
    )
    assert late["state"] == "stopped after 6 s"
    assert gpu.measured(STREAMS, True, None, 1)["state"] == "not begun: no time was left"
    failed = gpu.measured(replace(STREAMS, small=("--networks", "nothing")), True, None, 60)
    assert failed["state"] == "failed with exit code 1" or failed["state"] == "failed with exit code 2"


def test_the_data_are_named_as_they_lie(tmp_path: Path) -> None:
    train = gpu.PARTS[-1]
    assert gpu.command_of(train, False, tmp_path)[-2:] == ["--data.root", str(tmp_path)]
    (tmp_path / "cifar10-train.npz").touch()
    assert gpu.command_of(train, False, tmp_path)[-2:] == ["--data.name", f"npz:{tmp_path / 'cifar10'}"]
    assert gpu.measured(train, False, None, 60)["state"].startswith("not begun: --data")


def test_every_part_names_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert gpu.BEGIN in page and gpu.END in page
    for part in gpu.PARTS[:-1]:
        assert (
            f"`{part.module}`" in page and (Path(__file__).parents[2] / f"{part.module.replace('.', '/')}.py").exists()
        )


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_without_a_gpu_it_refuses() -> None:
    said = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], stderr=subprocess.PIPE, text=True)
    assert said.returncode == 2 and "--small exercises the parts" in said.stderr


def test_the_first_quarter_does_not_count() -> None:
    lines = [
        {"examples": examples, "seconds": seconds} for examples, seconds in ((0, 0), (10, 50), (60, 60), (110, 70))
    ]
    assert pace(json.loads(json.dumps(lines))) == 5.0
