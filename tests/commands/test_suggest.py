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
