"""Every recipe is run for two steps through the engine that it names, on few examples and with a cheap judgement."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.config import load
from sparring.training import train
from tests.locate import require_data

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
CHEAP = {
    "data.limit": "32",
    "train.batch_size": "8",
    "train.max_steps": "2",
    "attack.steps": "2",
    "evaluation.steps": "1",
    "evaluation.restarts": "1",
    "evaluation.samples": "4",
    "workers.count": "1",
    "workers.num_gpus": "0",
    "trainer.num_gpus": "0",
}


@pytest.mark.ray
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(recipe: Path, tmp_path: Path) -> None:
    changes = {**CHEAP, "run.root": str(tmp_path)}
    if recipe.stem.startswith("mnist"):
        changes["data.root"] = str(require_data("mnist"))
    else:  # real images of another size; the large network's little sister
        changes["data.name"] = "digits"
        if load(recipe).model.name.startswith("wrn"):
            changes["model.name"] = "wrn-40-2"
    config = load(recipe, changes)
    if config.allocator.name != "none" and config.attack.name != "augmix":
        config = load(recipe, {**changes, "allocator.boundary_steps": "2", "allocator.robust_steps": "1"})
    summary = train(config).summary
    assert summary["steps"] == 2 and summary["examples"] == 16 * config.train.shards_per_step
    assert summary["staleness_max"] <= summary["max_staleness"]
    assert sum(summary["allocated"].values()) == (0 if config.allocator.name == "none" else summary["examples"])


def test_every_recipe_says_how_it_is_run_and_what_it_is_held_against() -> None:
    for recipe in RECIPES:
        head = recipe.read_text().split("\n\n")[0]
        assert f"sparring train recipes/{recipe.name}" in head, recipe
