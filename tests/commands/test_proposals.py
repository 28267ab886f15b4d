"""What is tried, what is taken, and the recipe that is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sparring.commands.proposals import Round, Trial, attacks, batches, pick, rates, recipe_text, sized, wrapped
from sparring.config import Config, from_tree, load, overridden


def trial(robust: float, clean: float = 0.9, samples: int = 1000, **changes: object) -> Trial:
    return Trial(changes, robust, clean, samples, 100, 5.0)


def test_another_trial_is_taken_only_if_it_is_better_than_by_chance() -> None:
    kept, little, much = trial(0.50), trial(0.52), trial(0.53)
    assert pick(None, [kept, little, much]) is much
    assert pick(kept, [little]) is kept, "the standard error of the difference is 2.2 points"
    assert pick(kept, [little, much]) is much
    assert pick(kept, [trial(0.4)]) is kept


def test_of_equal_ones_the_more_accurate_on_clean_images_is_taken() -> None:
    assert pick(None, [trial(0.5, 0.8), trial(0.5, 0.9)]).clean == 0.9


def test_what_is_tried_are_settings() -> None:
    config = from_tree({"train": {"batch_size": 64}, "optimizer": {"lr": 0.004}, "attack": {"steps": 8}})
    for changes in [*rates(), *batches(config), *attacks(config)]:
        assert overridden(config, dict(changes)) != config
    assert {"train.batch_size": 128, "optimizer.lr": 0.008} in batches(config)
    assert {"attack.steps": 4} in attacks(config) and {"attack.steps": 16} in attacks(config)
    assert {"attack.warmup": 0.3} not in attacks(config), "it is the present one"


def test_an_attack_of_one_step_keeps_it() -> None:
    config = from_tree({"attack": {"name": "n-fgsm"}})
    assert all("attack.steps" not in changes for changes in attacks(config))


@pytest.mark.parametrize(
    ("examples", "epochs", "limit"),
    [(5000, 1, 5100), (10_000, 1, None), (25_000, 3, 8433), (10, 1, 2660)],
)
def test_a_trial_is_as_long_as_asked_and_never_too_short(examples: int, epochs: int, limit: int | None) -> None:
    config = sized(from_tree({"train": {"batch_size": 64}}), examples, heldout=100, dataset=10_000)
    assert (config.train.epochs, config.data.limit) == (epochs, limit)


def test_the_recipe_is_the_settings_with_their_reasons(tmp_path: Path) -> None:
    config = from_tree({"engine": "sync", "data": {"name": "mnist"}, "optimizer": {"lr": 0.01}})
    text = recipe_text(
        ["Suggested."], config, {"optimizer.lr": "It was best.", "attack.warmup": "a " * 100, "engine": "V"}
    )
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    assert load(path) == config
    assert text.startswith('# Suggested.\n\n# V\nengine = "sync"\n')
    assert "# It was best.\nlr = 0.01\n" in text and "warmup = 0.3" in text, "a default that was tried stands there too"
    assert max(map(len, text.splitlines())) <= 120
    assert set(tomllib.loads(text)) == {"engine", "data", "optimizer", "attack"}


def test_a_recipe_of_defaults_is_its_head() -> None:
    assert recipe_text(["Nothing."], Config(), {}) == "# Nothing.\n"


def test_the_reason_names_all_trials_the_best_first() -> None:
    low, high = trial(0.25, lr=0.1), trial(0.5, lr=0.01)
    assert Round(("lr",), (low, high), high).reason == (
        "PGD-10 on 1000 held-out examples after about 5 s each: 0.01: 50.0 %; 0.1: 25.0 %."
    )


def test_lines_are_broken_between_words() -> None:
    assert wrapped("aa bb cc", 5) == ["aa bb", "cc"] and wrapped("") == []
