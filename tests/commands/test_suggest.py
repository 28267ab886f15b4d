"""A suggestion from real trials on the digits, and what cannot be suggested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands import proposals
from sparring.commands.suggest import suggest
from sparring.config import from_tree, load
from sparring.errors import UsageError

DIGITS = {"data": {"limit": 200}, "attack": {"steps": 2}, "train": {"batch_size": 16}}


def test_a_suggestion_is_a_recipe_that_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LEAST_STEPS", 4)
    notes: list[str] = []
    found = suggest(from_tree(DIGITS), minutes=0.05, train_minutes=1, note=notes.append)
    path = tmp_path / "suggested.toml"
    path.write_text(found.text)
    recipe = load(path)
    assert recipe == found.config and recipe.engine in ("sync", "ddp", "ray")
    assert recipe.data.limit == 200 and recipe.data.holdout == 0, "what was given stays, what trials need does not"
    assert [len(each.trials) for each in found.rounds] == [6, 4, 5] and len(notes) == 13
    comments = " ".join(line.removeprefix("# ") for line in found.text.splitlines() if line.startswith("#"))
    for each in found.rounds:
        assert each.reason in comments and each.kept in each.trials
    rate, batch = found.rounds[0].kept.changes, found.rounds[1].kept.changes
    assert recipe.optimizer.name == rate["optimizer.name"] and batch["train.batch_size"] in (8, 16, 32)


ROUNDED = """
import torch

class Rounded(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))

    def forward(self, x):
        return self.network((x * 4).round() / 4)
"""


def test_what_makes_the_figures_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step moves an image: the robust accuracy that trials are ranked by is the clean one."""
    monkeypatch.setattr(proposals, "LEAST_STEPS", 4)
    (tmp_path / "nets.py").write_text(ROUNDED)
    tree = {**DIGITS, "attack": {"steps": 2, "epsilon": 0.001}, "model": {"name": f"{tmp_path / 'nets.py'}:Rounded"}}
    notes: list[str] = []
    found = suggest(from_tree(tree), minutes=0.02, train_minutes=1, note=notes.append)
    comments = " ".join(line.removeprefix("# ") for line in found.text.splitlines() if line.startswith("#"))
    for told in (
        "less than half a grey level",
        "robust examples (100.0 %) met a gradient of exactly zero",
        "examples trained on the attack met a gradient of exactly zero",
    ):
        assert any(told in warning for warning in found.warnings), found.warnings
        assert told in comments
    assert all(f"Warning: {warning}" in comments for warning in found.warnings) and "warnings" in notes[0]
    told_of = found.as_dict()
    assert told_of["warnings"] == list(found.warnings) and told_of["rounds"][0]["trials"][0]["warnings"]


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"objective": {"name": "augmix"}}, r"objective\.name = 'augmix'"),
        ({"train": {"shards_per_step": 4}}, r"train\.shards_per_step = 4"),
        ({"pruning": {"name": "low"}}, r"pruning\.name = 'low'"),
        ({"yopo": {"passes": 2}}, r"yopo\.passes = 2"),
    ],
)
def test_what_trials_cannot_tell_is_refused(tree: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        suggest(from_tree(tree), 1, 1)
