"""A model card has the figures of exactly these weights, is valid YAML and Markdown, and invents nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring.commands.card import card
from sparring.commands.evaluate import Trained, open_trained
from sparring.commands.export import export_run
from sparring.commands.train import train
from sparring.runs import Run
from tests.support.runs import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("runs")
    return train(small(root, engine="sync", train={"max_steps": 3}, run={"name": "mine"})).run


@pytest.fixture
def trained(run: Run) -> Trained:
    return open_trained(run, {})


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_figures_stand_in_front_matter_and_words(run: Run, trained: Trained, tmp_path: Path) -> None:
    export_run(run, "card", tmp_path / "README.md")
    text, summary = (tmp_path / "README.md").read_text(), run.read_json("summary.json") or {}
    matter = front(text)
    assert matter["datasets"] == ["digits"] and matter["pipeline_tag"] == "image-classification"
    (result,) = matter["model-index"][0]["results"]
    assert [each["value"] for each in result["metrics"]] == [summary["clean_accuracy"], summary["robust_accuracy"]]
    assert summary["attack"] in result["metrics"][1]["name"]
    assert f"| {summary['attack']} | {100 * summary['robust_accuracy']:.1f} % (" in text and "| 50 (drawn from" in text
    assert all(f"- Warning: {each}" in text for each in summary["warnings"]) and summary["warnings"]


def test_what_no_record_says_is_named_as_missing(trained: Trained, run: Run) -> None:
    text = card(trained, run)
    assert "license" not in front(text) and "License, authors, intended use" in text


def test_weights_that_were_not_evaluated_have_no_figures(trained: Trained, run: Run, tmp_path: Path) -> None:
    text = card(trained, Run(tmp_path))
    assert "model-index" not in front(text) and "were not evaluated" in text
