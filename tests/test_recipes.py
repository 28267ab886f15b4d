"""Every recipe is run for two steps through the engine that it names, on few examples and with a cheap judgement."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.commands.train import train
from sparring.config import load
from tests.support.data import require_data
from tests.support.runs import Place

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
PAPERS: dict[str, list[str]] = {  # figures of the papers that stand in a recipe's head
    "cifar10-augmix": ["88.8 %", "86.9"],
    "cifar10-augmix-bt": ["88.8 %", ".35", "1.8", "1.7"],
    "cifar10-fast": ["46.3", "43.8", "6 minutes"],
    "cifar10-free": ["83.80", "46.78", "19.9 minutes"],
    "cifar10-grad-align": [],
    "cifar10-mart": ["84.17", "57.39"],
    "cifar10-mart-bt": ["86.60", "58.74", ".30 / .43 / .26", "2.2", "1.9"],
    "cifar10-pruned": ["39.63", "33.54", "37.84", "25.32", "44.59"],
    "cifar10-synthetic": ["92.44", "67.31"],
    "cifar10-trades": ["84.92", "56.61"],
    "cifar10-trades-bt": ["85.89", "56.35", ".28 / .54 / .18", "2.3", "2.2"],
    "finetune": [],
    "imagenet-fast": ["60.90", "43.43", "12.14 h"],
    "mnist-async": ["98 clean", "89 to 91"],
    "mnist-fast": [],
    "mnist-fgsm-rs": ["99.20", "88.77"],
    "mnist-madry": ["98 clean", "89 to 91"],
    "mnist-pruned": ["70.11", "67.43", "65.50", "60.77", "70.05"],
    "mnist-yopo": [],
}
THROUGH_RAY = ("mnist-async", "cifar10-trades-bt", "cifar10-augmix-bt", "cifar10-synthetic")  # others in one process
CHEAP = {
    "data.limit": "32",
    "train.batch_size": "8",
    "train.max_steps": "2",
    "attack.steps": "2",
    "evaluation.attack": "pgd",
    "evaluation.steps": "1",
    "evaluation.restarts": "1",
    "evaluation.samples": "4",
    "model.precision": "fp32",  # half precision on a CPU takes minutes for such networks; tests/models has it
    "workers.count": "1",
    "workers.num_gpus": "0",
    "trainer.num_gpus": "0",
}


@pytest.mark.parametrize(
    ("recipe", "setting", "value"),
    [
        *((f"cifar10-{name}", "model.name", "preact-resnet-18-wong") for name in ("fast", "free", "pruned")),
        *((f"cifar10-{name}", "model.options", {"centred": True}) for name in ("augmix", "augmix-bt")),
        *((f"cifar10-{name}", "optimizer.weight_decay", 7e-4) for name in ("mart", "mart-bt")),
    ],
)
def test_a_recipe_has_what_its_authors_code_has(recipe: str, setting: str, value: object) -> None:
    group, name = setting.split(".")
    path = next(path for path in RECIPES if path.stem == recipe)
    assert getattr(getattr(load(path), group), name) == value


@pytest.mark.ray
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(recipe: Path, tmp_path: Path, shared_ray: Place) -> None:
    changes, data = {**CHEAP, "run.root": str(tmp_path)}, load(recipe).data
    if recipe.stem.startswith("mnist"):
        changes["data.root"] = str(require_data("mnist"))
    else:  # real images of another size; the large network's little sister
        changes["data.name"] = "digits"
        if load(recipe).model.name.startswith("wrn"):
            changes["model.name"] = "wrn-40-2"
        if load(recipe).model.name == "resnet-50":
            changes["model.name"] = "preact-resnet-18"
    if data.size is not None:
        changes |= {"data.size": "12", "data.phases": "[{until = 0.5, size = 8}]"}
    if data.extra is not None:
        np.savez(tmp_path / "extra.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.zeros(20, np.int64))
        changes["data.extra"] = f"npz:{tmp_path / 'extra.npz'}"
    if load(recipe).evaluation.attack == "autoattack":
        changes["evaluation.attack"] = "pgd"
    if recipe.stem not in THROUGH_RAY:
        changes["engine"] = "sync"
    if load(recipe).yopo.passes:
        changes |= {"yopo.passes": "2", "yopo.inner_steps": "1"}
    config = load(recipe, changes)
    if config.allocator.name != "none" and config.attack.name != "augmix":
        config = load(recipe, {**changes, "allocator.boundary_steps": "2", "allocator.robust_steps": "1"})
    summary = train(shared_ray(config)).summary
    assert summary["steps"] == 2 and summary["examples"] == 16 * config.train.shards_per_step
    assert summary["staleness_max"] <= summary["max_staleness"]
    assert sum(summary["allocated"].values()) == (0 if config.allocator.name == "none" else summary["examples"])


def test_finetune_runs_on_a_folder_with_a_model_of_timm(tmp_path: Path) -> None:
    for split, name, seed in itertools.product(("train", "test"), ("cat", "dog"), range(8)):
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / split / name / f"{seed}.png")
    changes = {
        **CHEAP,
        "engine": "sync",
        "run.root": str(tmp_path / "runs"),
        "model.name": "timm:test_resnet",
        "data.name": f"folder:{tmp_path}",
        "data.size": "32",
        "data.augment": "resized_crop_flip",
    }
    summary = train(load(RECIPES[0].with_name("finetune.toml"), changes)).summary
    assert summary["steps"] == 2 and summary["examples"] == 16


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_single_steps_has_the_guard_on_and_says_its_authors_order(recipe: Path) -> None:
    config = load(recipe)
    if config.attack.name in ("fgsm", "fgsm-rs", "n-fgsm"):
        assert config.guard.overfitting != "off"
    if config.attack.name == "fgsm-rs":
        assert config.attack.clamp_start is (not recipe.stem.startswith("mnist"))


def test_every_recipe_is_there_and_says_how_it_is_run_and_what_it_is_held_against() -> None:
    heads = {recipe.stem: recipe.read_text().split("\n\n")[0] for recipe in RECIPES}
    assert heads.keys() == PAPERS.keys()
    for name, head in heads.items():
        assert f"sparring train recipes/{name}.toml" in head
        assert all(figure in head for figure in PAPERS[name]), name
