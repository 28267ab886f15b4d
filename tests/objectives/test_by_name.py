"""The objective that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.config import AugmixSettings, ObjectiveSettings
from sparring.errors import UsageError
from sparring.objectives import Objective
from sparring.objectives.augmix import AugMixConsistency
from sparring.objectives.by_name import objective_of
from sparring.objectives.methods import MART, PGDAT, TRADES


def objective(passes: str = "reference", augmix: AugmixSettings | None = None, **values: Any) -> Objective:
    return objective_of(ObjectiveSettings.model_validate(values), augmix or AugmixSettings(), passes=passes)


@pytest.mark.parametrize(
    ("name", "kind", "given"),
    [
        ("pgd-at", PGDAT, {"label_smoothing": 0.1}),
        ("trades", TRADES, {"beta": 3.0, "passes": "single_pass", "label_smoothing": 0.1, "attacked_first": False}),
        ("mart", MART, {"beta": 3.0, "passes": "single_pass"}),
    ],
)
def test_a_built_in_is_given_the_settings_that_it_takes(name: str, kind: type, given: dict[str, Any]) -> None:
    smoothing = 0.1 if "label_smoothing" in given else 0.0
    made = objective("single_pass", name=name, beta=3.0, label_smoothing=smoothing)
    assert type(made) is kind and vars(made) == given


def test_augmix_is_given_its_own_group() -> None:
    made = objective("single_pass", AugmixSettings(weight=5.0), name="augmix")
    assert isinstance(made, AugMixConsistency) and (made.weight, made.passes) == (5.0, "single_pass")


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file with objectives of one's own."""
    path = tmp_path / "own.py"
    path.write_text(
        "from sparring.objectives import Objective\n"
        "class Mine(Objective):\n"
        "    def __init__(self, beta, gamma=1.0):\n"
        "        self.beta, self.gamma = beta, gamma\n"
        "class Aligned(Objective):\n"
        "    def __init__(self, align_lambda=0.7, augmix='mine'):\n"
        "        self.align_lambda, self.augmix = align_lambda, augmix\n"
        "def function(logits, labels):\n"
        "    return 0\n"
        "def nothing():\n"
        "    return None\n"
    )
    return str(path)


def test_one_of_the_users_own_is_given_its_options_too(own: str) -> None:
    made = objective(name=f"{own}:Mine", beta=2.0, options={"gamma": 0.5})
    assert vars(made) == {"beta": 2.0, "gamma": 0.5}


def test_one_of_the_users_own_keeps_its_defaults_of_names_that_are_settings_of_built_ins(own: str) -> None:
    assert vars(objective(name=f"{own}:Aligned")) == {"align_lambda": 0.7, "augmix": "mine"}
    made = objective(name=f"{own}:Aligned", options={"align_lambda": 0.5})
    assert vars(made) == {"align_lambda": 0.5, "augmix": "mine"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "trade"}, r"objective\.name = 'trade': no such name; the nearest is trades"),
        ({"name": "mart", "label_smoothing": 0.1}, r"objective\.label_smoothing = 0\.1 .* 'mart'"),
        ({"name": "augmix", "label_smoothing": 0.1}, r"objective\.label_smoothing = 0\.1 .* 'augmix'"),
        ({"name": "trades", "options": {"gamma": 1}}, r"objective\.options\.gamma = 1: no such option"),
        ({"name": "{own}:Mine", "label_smoothing": 0.1}, r"label_smoothing = 0\.1 .* takes no label_smoothing"),
        (
            {"name": "{own}:Aligned", "align_lambda": 1.0},
            r"align_lambda = 1\.0 .* Set objective\.options\.align_lambda",
        ),
        ({"name": "{own}:function"}, r"objective\.options\.logits is missing"),
        ({"name": "{own}:nothing"}, r"made a NoneType: a sparring\.objectives\.Objective is needed"),
    ],
)
def test_what_is_no_objective_or_is_not_taken_is_refused(own: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        objective(**{**settings, "name": settings["name"].format(own=own)})


@pytest.mark.parametrize("gamma", [0.0, 0.005])
def test_trades_passes_the_attacked_images_first_where_weights_are_perturbed(gamma: float) -> None:
    made = objective(name="trades", awp_gamma=gamma)
    assert isinstance(made, TRADES) and made.attacked_first == (gamma > 0)
