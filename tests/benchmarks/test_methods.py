"""The tables of the methods benchmark say what the runs were."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.methods import figures, recorded, table_of_autoattack, table_of_methods, tree_of


def run(robust: float, gradients: float, **more: Any) -> dict[str, Any]:
    seconds = {"processor_seconds": 100.0, "seconds": 200.0}
    return {
        "clean_accuracy": 0.98,
        "robust_accuracy": robust,
        "gradients_per_example": gradients,
        "allocated": {},
        **seconds,
        **more,
    }


def test_bullettrain_stands_against_its_base_with_the_means_of_all_seeds() -> None:
    counts = {"boundary": 28, "robust": 54, "outlier": 18}
    results = {
        "TRADES": [run(0.87, 8.0), run(0.89, 8.0)],
        "TRADES + BulletTrain": [run(0.86, 3.0, allocated=counts), run(0.885, 4.0, allocated={"robust": 100})],
    }
    base, spared = (line.split(" | ") for line in table_of_methods(results)[2:])
    assert base[2:6] == ["88.0 (87.0 to 89.0)", "-", "8.00 (8.00 to 8.00)", "-"]
    assert spared[2:7] == ["87.2 (86.0 to 88.5)", "-0.8", "3.50 (3.00 to 4.00)", "0.44", "0.14 / 0.77 / 0.09"]


def test_autoattacks_figures_carry_their_images_and_intervals() -> None:
    evaluated = run(0.87, 8.0, autoattack=0.8, autoattack_samples=1000)
    (line,) = table_of_autoattack({"PGD-AT": [evaluated], "MART": [run(0.5, 8.0)]})[2:]
    assert line == "| PGD-AT | 1 | 1000 | 80.0 (80.0 to 80.0) | 80.0 (77.4 to 82.4) |"


def test_a_network_in_the_records_is_not_made_again_but_for_other_images(tmp_path: Path) -> None:
    config = tree_of("MART", True, 0, Path("no data here"), tmp_path)
    line = {"run": "mart-bt-seed0", **run(0.9, 3.0, autoattack=0.8, autoattack_samples=10_000)}
    records = tmp_path / "methods.jsonl"
    records.write_text(json.dumps(line) + "\n")
    options = argparse.Namespace(records=records, autoattack=10_000, processes=1)
    assert figures([config], options) == {"mart-bt-seed0": line}
    assert records.read_text().count("\n") == 1 and recorded(records, 1000) == {} and recorded(None, 1000) == {}
