"""PGD against cases whose optimum is known, an independent float64 transcription and foolbox; what `Attack` refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import foolbox
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import FGSM, FGSMRS, NFGSM, PGD, Attack, perturb, perturbed
from tests.support.batches import images, linear_model, margin, seeded, small_network
from tests.support.momentum import Momentum

NORMS = ("linf", "l2")


@pytest.mark.parametrize("steps", [1, 7])
def test_on_a_linear_model_pgd_reaches_the_known_linf_optimum(steps: int) -> None:
    model, (x, y) = linear_model(), images(low=0.4, high=0.6)
    delta = perturb(model, x, y, PGD(0.1, steps=steps, step_size=2.5 * 0.1 / steps, start="zero"), seeded())
    assert torch.allclose(delta, 0.1 * margin(model, y).sign().view_as(x), atol=1e-6)


def test_on_a_linear_model_l2_pgd_reaches_the_known_optimum() -> None:
    model, (x, y) = linear_model(), images(low=0.4, high=0.6)
    direction = margin(model, y)
    wanted = 0.2 * direction / direction.norm(dim=1, keepdim=True)
    many = perturb(model, x, y, PGD(0.2, norm="l2", steps=200, step_size=0.05), seeded())
    few = perturb(model, x, y, PGD(0.2, norm="l2", steps=5, step_size=0.1), seeded())
    assert torch.allclose(many.flatten(1), wanted, atol=2e-3)
    assert torch.all((few.flatten(1) * wanted).sum(1) > 0.5 * 0.2**2)


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.01), ("linf", 0.3), ("linf", 1.0), ("l2", 0.01), ("l2", 0.3), ("l2", 5.0)]
)
@pytest.mark.parametrize("restarts", [1, 3])
def test_a_perturbation_is_inside_its_ball_and_the_image_inside_the_box(
    norm: str, epsilon: float, restarts: int
) -> None:
    model, (x, y) = small_network(), images()
    attack = PGD(epsilon, norm=norm, steps=4, step_size=epsilon, restarts=restarts)
    attacked = perturbed(x, perturb(model, x, y, attack, seeded()))
    size = (attacked - x).abs().amax() if norm == "linf" else (attacked - x).flatten(1).norm(dim=1).amax()
    assert size <= epsilon + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def float64_pgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, attack: Attack) -> Tensor:
    """Mądry et al., equation for x^{t+1}, written out in float64."""
    model, delta, rows = model.double(), start.double(), x.double()
    for _ in range(attack.steps):
        point = (rows + delta).requires_grad_(True)
        loss = nn.functional.cross_entropy(model(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        if attack.norm == "linf":
            delta = (delta + attack.alpha * gradient.sign()).clamp(-attack.epsilon, attack.epsilon)
        else:
            for i in range(len(delta)):
                delta[i] += attack.alpha * gradient[i] / gradient[i].norm()
                delta[i] *= min(1.0, attack.epsilon / float(delta[i].norm()))
        delta = (rows + delta).clamp(0, 1) - rows
    return delta


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_agrees_with_a_float64_transcription(norm: str) -> None:
    x, y = images()
    attack = PGD(0.2, norm=norm, steps=6, step_size=0.05, start="zero")
    ours = perturb(small_network(), x, y, attack, seeded())
    theirs = float64_pgd(small_network(), x, y, torch.zeros_like(x), attack)
    assert (ours - theirs).abs().max() < 1e-4 if norm == "l2" else ((ours - theirs).abs() > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize(
    ("norm", "theirs"),
    [
        ("linf", foolbox.attacks.LinfProjectedGradientDescentAttack),
        ("l2", foolbox.attacks.L2ProjectedGradientDescentAttack),
    ],
)
def test_pgd_agrees_with_foolbox(norm: str, theirs: type) -> None:
    model, (x, y) = small_network(), images()
    attack = PGD(0.15, norm=norm, steps=10, step_size=0.03, start="zero")
    reference = theirs(abs_stepsize=0.03, steps=10, random_start=False)
    found, _, _ = reference(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=0.15)
    ours = perturbed(x, perturb(model, x, y, attack, seeded()))
    assert ((ours - found).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_in_the_ball_and_depend_on_the_generator_alone(norm: str) -> None:
    model, (x, y) = small_network(), images()
    attack = PGD(0.3, norm=norm, steps=1, step_size=1e-12)
    one, two, other = (perturb(model, x, y, attack, seeded(seed)) for seed in (1, 1, 2))
    sizes = one.abs().flatten(1).amax(1) if norm == "linf" else one.flatten(1).norm(dim=1)
    assert torch.equal(one, two) and sizes.min() > 0 and sizes.max() <= 0.3 + 1e-6
    assert not torch.equal(one, other)


def test_the_gaussian_start_is_neither_put_into_the_ball_nor_into_the_image() -> None:
    x = torch.zeros(4, 1, 6, 6)
    start = PGD(1e-4, steps=1, step_size=1e-4, start="gaussian").initial(x, seeded())
    assert torch.equal(start, 0.001 * torch.randn(x.shape, generator=seeded()))
    assert start.min() < 0 and start.abs().max() > 1e-3


@pytest.mark.parametrize("start", ["zero", "given"])
def test_where_nothing_is_drawn_an_attack_begins_at_the_image(start: Any) -> None:
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(PGD(0.1, start=start).initial(x, seeded()), torch.zeros_like(x))


@pytest.mark.parametrize(("norm", "steps"), [("linf", 8), ("l2", 20)])
def test_the_step_is_two_and_a_half_radii_over_the_steps_and_grows_with_epsilon(norm: str, steps: int) -> None:
    attack = PGD(0.3, norm=norm, steps=steps)
    assert attack.start == "uniform"
    assert math.isclose(attack.alpha, 2.5 * 0.3 / steps)
    assert math.isclose(attack.at(0.15).alpha, 2.5 * 0.15 / steps)


def test_a_step_that_was_set_keeps_its_share_of_epsilon() -> None:
    smaller = PGD(0.3, step_size=0.12, restarts=3, loss="kl").at(0.15)
    assert smaller == PGD(0.15, step_size=0.06, restarts=3, loss="kl")
    assert PGD(0.0, step_size=0.1).at(0.2).alpha == 0.1, "of a ball without radius there is no share"


@pytest.mark.parametrize("attack", [PGD(0.1, steps=3), FGSM(0.1), NFGSM(0.1, noise=0.5), Momentum(0.1, norm="l2")])
def test_a_record_names_the_attack_and_its_ball(attack: Attack) -> None:
    record = attack.record
    assert record == (attack.name, attack.norm, attack.epsilon, attack.radius, attack.steps)
    assert [type(part) for part in record] == [str, str, float, float, int]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.3, norm="l2", steps=7, step_size=0.1, start="gaussian", loss="kl"),
        FGSM(0.3, start="given"),
        FGSMRS(0.3, loss="kl"),
        NFGSM(0.3, noise=0.5, step_size=0.2),
        Momentum(0.3, decay=0.5),
    ],
    ids=lambda attack: attack.name,
)
def test_a_record_gives_the_attack_back_at_the_epsilon_of_then(attack: Attack) -> None:
    for epsilon in (0.3, 0.1 + 0.2 / 3, 0.007):
        then = attack.at(epsilon)
        assert attack.as_recorded(then.record) == then
        replacement = then.stronger(20)
        assert attack.as_recorded(replacement.record) == replacement, "a guard's attack took its place"


def test_a_guards_stronger_attack_is_pgd_in_the_same_ball_from_the_same_start() -> None:
    attack = PGD(0.3, norm="l2", steps=7, step_size=0.1, restarts=2, start="gaussian", loss="kl")
    assert attack.stronger(20) == PGD(0.3, norm="l2", steps=20, restarts=2, start="gaussian", loss="kl")
    assert FGSM(0.3).stronger(20).start == "uniform", "PGD from zero finds less"
    assert NFGSM(0.3).stronger(20).radius == 0.3


def test_a_model_is_evaluated_on_the_cross_entropy_from_random_starts() -> None:
    attack = PGD(0.3, norm="l2", steps=7, start="gaussian", restarts=9, loss="kl")
    assert attack.evaluator(50, restarts=2) == PGD(0.3, norm="l2", steps=50, restarts=2)
    assert attack.evaluator(50, step_size=0.01) == PGD(0.3, norm="l2", steps=50, step_size=0.01)


@dataclass(frozen=True, kw_only=True)
class InADiamond(Attack):
    """An attack in a ball that PGD does not know."""

    norm: str = "l1"
    norms = ("l1",)


def test_where_pgd_does_not_know_the_ball_the_attack_itself_takes_more_steps() -> None:
    attack = InADiamond(2.0, steps=3, step_size=0.5)
    assert attack.stronger(20) == InADiamond(2.0, steps=20)
    assert attack.evaluator(50, step_size=0.1, restarts=2) == InADiamond(2.0, steps=50, step_size=0.1, restarts=2)
    then = attack.at(0.5)
    assert attack.as_recorded(then.record) == then
    assert attack.as_recorded(then.stronger(20).record) == then.stronger(20)


def test_an_attack_of_ones_own_is_called_by_its_class_unless_it_says_a_name() -> None:
    assert (InADiamond(1.0).name, Momentum(0.1).name, PGD(0.1).name) == ("InADiamond", "Momentum", "pgd")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm", "Linf"),
        ("norm", "l1"),
        ("epsilon", -0.1),
        ("epsilon", 8.0),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("epsilon", "0.1"),
        ("epsilon", True),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("restarts", 0),
        ("step_size", -0.1),
        ("step_size", 0),
        ("step_size", math.nan),
        ("start", "random"),
        ("loss", "cw"),
    ],
)
def test_an_argument_that_is_wrong_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} = {value!r}: "):
        PGD(**{"epsilon": 0.1, name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    numbers: dict[str, Any] = {
        "epsilon": np.float32(0.125),
        "steps": np.int64(7),
        "step_size": np.float64(0.03),
        "restarts": np.int32(2),
    }
    attack = PGD(**numbers)
    assert attack == PGD(0.125, steps=7, step_size=0.03, restarts=2)
    assert [type(value) for value in (attack.epsilon, attack.steps, attack.step_size)] == [float, int, float]


@pytest.mark.parametrize("start", ["zero", "given"])
def test_several_attempts_from_the_same_point_are_refused_and_never_made(start: Any) -> None:
    with pytest.raises(ValueError, match=rf"^restarts = 3 with start = '{start}': all would begin at the same point"):
        PGD(0.1, start=start, restarts=3)
    assert PGD(0.1, start=start).evaluator(10, restarts=3).start == "uniform"
    assert InADiamond(1.0, start=start).evaluator(10, restarts=3).restarts == 1


def test_an_attack_stays_checked_where_it_is_changed() -> None:
    with pytest.raises(ValueError, match=r"^epsilon = 3: "):
        PGD(0.1).at(3)
    with pytest.raises(ValueError, match=r"^steps = 0: "):
        replace(PGD(0.1), steps=0)
    assert PGD(3.0, norm="l2").epsilon == 3.0, "under L2 a radius may exceed 1"


def test_by_position_the_norm_may_come_first() -> None:
    assert PGD("l2", 0.5, 7, 0.1) == PGD(0.5, "l2", 7, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^norm = 'l3': "):
        PGD("l3", 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [partial(FGSM, 0.1), partial(PGD, 0.1, start="zero")])
def test_a_divergence_from_the_image_itself_has_no_gradient_and_is_refused(make: Callable[..., Attack]) -> None:
    with pytest.raises(ValueError, match="loss = 'kl' with start = 'zero': at the clean image its gradient is zero"):
        make(loss="kl")(linear_model(), *images())
    assert make(loss="kl", start="gaussian").start == "gaussian"
