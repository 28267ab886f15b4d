"""The attack that a recipe names: the papers' rules, what is left open, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.attacks import CROSS_ENTROPY, DIVERGENCE, FGSM, PGD, Attack, frozen, perturb
from sparring.attacks.augmix import AugMix, Threat
from sparring.attacks.by_name import attack_of, threat_of
from sparring.config import AttackSettings, AugmixSettings
from sparring.errors import UsageError
from sparring.objectives import Objective
from sparring.objectives.methods import MART, PGDAT, TRADES
from tests.support.batches import images, network_with_batch_norm, seeded

OBJECTIVES: dict[str, Objective] = {"pgd-at": PGDAT(), "trades": TRADES(), "mart": MART()}


def threat(objective: str = "pgd-at", **values: Any) -> Threat:
    return attack_of(AttackSettings.model_validate(values), AugmixSettings(), OBJECTIVES[objective])


def attack(objective: str = "pgd-at", **values: Any) -> Attack:
    made = threat(objective, **values)
    assert isinstance(made, Attack)
    return made


@pytest.mark.parametrize(
    ("name", "norm", "steps", "alpha", "start"),
    [
        ("pgd", "linf", 8, 2.5 * 0.3 / 8, "uniform"),
        ("pgd", "l2", 20, 2.5 * 0.3 / 20, "uniform"),
        ("fgsm", "linf", 1, 0.3, "zero"),
        ("fgsm-rs", "linf", 1, 1.25 * 0.3, "uniform"),
        ("n-fgsm", "linf", 1, 0.3, "uniform"),
    ],
)
def test_step_size_rules_of_the_papers(name: str, norm: str, steps: int, alpha: float, start: str) -> None:
    made = attack(name=name, norm=norm, epsilon=0.3, steps=8 if steps == 1 else steps)
    assert (made.name, made.norm, made.steps, made.start) == (name, norm, steps, start)
    assert math.isclose(made.alpha, alpha)
    assert math.isclose(made.at(0.15).alpha, alpha / 2), "the step warms up with epsilon"


@pytest.mark.parametrize(
    ("name", "objective", "start", "loss"),
    [
        ("pgd", "pgd-at", "uniform", CROSS_ENTROPY),
        ("pgd", "trades", "gaussian", DIVERGENCE),
        ("pgd", "mart", "gaussian", CROSS_ENTROPY),
        ("fgsm", "mart", "zero", CROSS_ENTROPY),
        ("fgsm-rs", "trades", "uniform", DIVERGENCE),
        ("fgsm-rs", "mart", "uniform", CROSS_ENTROPY),
        ("n-fgsm", "trades", "uniform", DIVERGENCE),
    ],
)
def test_start_and_loss_are_the_objectives_but_a_name_that_says_its_start_has_it(
    name: str, objective: str, start: str, loss: object
) -> None:
    made = attack(objective, name=name)
    assert (made.start, made.maximised) == (start, loss)


@pytest.mark.parametrize(
    ("settings", "start", "loss"),
    [
        ({"start": "zero", "loss": "ce"}, "zero", CROSS_ENTROPY),
        ({"start": "uniform"}, "uniform", DIVERGENCE),
        ({"start": "previous"}, "given", DIVERGENCE),
        ({"start": "last"}, "gaussian", DIVERGENCE),
        ({"name": "fgsm", "start": "previous"}, "given", DIVERGENCE),
    ],
)
def test_what_is_set_comes_before_the_objectives(settings: dict[str, Any], start: str, loss: object) -> None:
    made = attack("trades", **settings)
    assert (made.start, made.maximised) == (start, loss)


def float64_attack(objective: str, x: Tensor, y: Tensor, made: Attack, noise: Tensor) -> Tensor:
    """The inner loop of TRADES (divergence) and MART (cross-entropy) in float64; under L2 with the norms' own steps."""
    model, rows, point = network_with_batch_norm().eval().double(), x.double(), (x + noise).double()
    alpha = 2.5 * made.epsilon / made.steps
    with torch.no_grad():
        natural = model(rows).softmax(1)
    for _ in range(made.steps):
        point = point.detach().requires_grad_(True)
        logits = model(point)
        if objective == "trades":
            loss = (natural * (natural.log() - logits.log_softmax(1))).sum()
        else:
            loss = -logits.log_softmax(1)[torch.arange(len(y)), y].sum()
        (gradient,) = torch.autograd.grad(loss, point)
        if made.norm == "linf":
            point = torch.minimum(
                torch.maximum(point + alpha * gradient.sign(), rows - made.epsilon), rows + made.epsilon
            )
        else:
            sizes = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = point + alpha * gradient / sizes - rows
            lengths = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            point = rows + delta * (made.epsilon / lengths).clamp(max=1)
        point = point.clamp(0, 1)
    return point - rows


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["trades", "mart"])
def test_the_attacks_of_trades_and_mart_agree_with_a_float64_transcription(objective: str, norm: str) -> None:
    """Start beside the image and not clamped, the objective's loss, step, ball, box; running statistics."""
    (x, y), model = images(), network_with_batch_norm()
    x[0, 0, :3], x[0, 0, 3:] = 0.0, 1.0  # the start leaves the box here
    made = attack(objective, norm=norm, epsilon=0.2, steps=6)
    noise = 0.001 * torch.randn(x.shape, generator=seeded())
    with frozen(model):
        ours = perturb(model, x, y, made, seeded())
    theirs = float64_attack(objective, x, y, made, noise)
    assert model.training and ((ours - theirs).abs() > 1e-4).double().mean() < 0.01


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file with attacks of one's own."""
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from sparring.attacks import FGSM, PGD, Attack\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Decaying(Attack):\n"
        "    decay: float = 0.9\n"
        "    start: str = 'zero'\n"
        "def one_step(epsilon, scale=1.0):\n"
        "    return FGSM(epsilon * scale)\n"
        "def viewed(epsilon, augmix='mine'):\n"
        "    return PGD(epsilon, steps=len(augmix))\n"
        "def nothing(epsilon):\n"
        "    return epsilon\n"
    )
    return str(path)


def test_an_attack_of_ones_own_is_given_its_options_and_the_settings_that_it_takes(own: str) -> None:
    made = attack("trades", name=f"{own}:Decaying", epsilon=0.1, steps=3, norm="l2", options={"decay": 0.5})
    assert (made.name, made.epsilon, made.steps, made.norm) == ("Decaying", 0.1, 3, "l2")
    assert vars(made)["decay"] == 0.5
    assert (made.start, made.maximised) == ("zero", DIVERGENCE), "its own start, the objective's loss"
    assert attack(name=f"{own}:one_step", epsilon=0.2, options={"scale": 0.5}) == FGSM(0.1)


def test_an_attack_of_ones_own_keeps_its_defaults_of_names_that_are_settings_of_built_ins(own: str) -> None:
    assert attack(name=f"{own}:viewed").steps == len("mine")
    assert attack(name=f"{own}:viewed", options={"augmix": "other"}).steps == len("other")
    assert attack(name=f"{own}:Decaying", options={"clamp_start": False}).clamp_start is False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "pdg"}, r"attack\.name = 'pdg': no such name; the nearest is pgd"),
        ({"name": "pgd", "epsilon": 2.0}, r"attack\.name: PGD refuses its arguments: epsilon = 2\.0"),
        ({"name": "pgd", "options": {"decay": 1}}, r"decay = 1: no such option; PGD takes no options"),
        ({"name": "pgd", "options": {"steps": 1}}, r"attack\.options\.steps = 1: the run already passes steps"),
        (
            {"name": "fgsm-rs", "options": {"clamp_start": True}},
            r"clamp_start = True: the run already passes clamp_start",
        ),
        ({"name": "n-fgsm", "start": "zero"}, r"attack\.start = 'zero' with attack\.name = 'n-fgsm'"),
        ({"name": "augmix", "norm": "l2"}, r"attack\.norm = 'l2' with attack\.name = 'augmix'"),
        ({"name": "augmix", "loss": "kl"}, r"attack\.loss = 'kl' with attack\.name = 'augmix'"),
        ({"name": "{own}:one_step", "step_size": 0.1}, r"attack\.step_size = 0\.1 with .*which takes no step_size"),
        ({"name": "{own}:Decaying", "clamp_start": False}, r"clamp_start = False .* Set attack\.options\.clamp_start"),
        ({"name": "{own}:nothing"}, r"made a float: a sparring\.attacks\.Attack is needed"),
    ],
)
def test_what_is_no_attack_or_is_not_taken_is_refused(own: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        threat(**{**settings, "name": settings["name"].format(own=own)})


def test_views_are_named_like_an_attack_and_evaluated_in_the_ball_of_the_settings() -> None:
    settings = AttackSettings(name="augmix", epsilon=0.1)
    views = attack_of(settings, AugmixSettings(width=2), PGDAT())
    assert views == AugMix(AugmixSettings(width=2))
    assert threat_of(settings, views) == PGD(0.1)
    assert threat_of(settings, FGSM(0.3)) == FGSM(0.3)
