"""An attack called from Python: the images that `perturb` finds, a model left as it was, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import FGSM, FGSMRS, NFGSM, PGD, Attack, State, frozen, perturb, perturbed
from tests.support.batches import images, network_with_batch_norm, seeded, small_network
from tests.support.momentum import Momentum

ATTACKS: list[Attack] = [
    PGD(0.2, steps=4, restarts=2),
    PGD(0.5, norm="l2", steps=4, start="gaussian", loss="kl"),
    FGSM(0.2),
    FGSMRS(0.2),
    NFGSM(0.1),
    Momentum(0.2, steps=4),
]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}-{attack.norm}")


@every_attack
def test_it_returns_what_perturb_finds_on_the_frozen_model(attack: Attack) -> None:
    model, (x, y) = network_with_batch_norm(), images()
    with frozen(model):
        delta = perturb(model, x, y, attack, seeded(3))
    attacked = attack(model, x, y, generator=seeded(3))
    assert torch.equal(attacked, perturbed(x, delta))
    assert torch.equal(attack(model, x, y, generator=seeded(3), return_delta=True), delta)
    assert attacked.dtype == x.dtype and not attacked.requires_grad
    assert attacked.min() >= 0 and attacked.max() <= 1 and not torch.equal(attacked, x)


def test_the_model_is_left_as_it_was_found() -> None:
    model, (x, y) = network_with_batch_norm(), images()
    model.get_submodule("1").eval()
    model.get_submodule("4").requires_grad_(False)
    nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    before = state_of(model)
    PGD(0.2, steps=3)(model, x, y)
    assert equal(state_of(model), before)
    assert len(set(before["training"])) == len(set(before["requires_grad"])) == 2, "a mixed case"


def state_of(model: nn.Module) -> dict[str, list[Any]]:
    parameters = list(model.parameters())
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "values": [value.clone() for value in model.state_dict().values()],
        "gradients": [None if each.grad is None else each.grad.clone() for each in parameters],
    }


def equal(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> bool:
    pairs = ((left, right) for name in one for left, right in zip(one[name], other[name], strict=True))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a is b or a == b for a, b in pairs)


def test_images_and_labels_are_left_as_they_were() -> None:
    x, y = images()
    x.requires_grad_(True)
    kept = x.detach().clone(), y.clone()
    attacked = PGD(0.2, steps=3)(small_network(), x, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert x.grad is None and not attacked.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_whatever_mode_gradients_are_in(context: Callable[[], AbstractContextManager[None]]) -> None:
    model, (x, y) = network_with_batch_norm(), images()
    expected = PGD(0.2, steps=3)(model, x, y, generator=seeded())
    with context():
        inside = PGD(0.2, steps=3)(model, x.clone(), y.clone(), generator=seeded())
        assert torch.equal(inside, expected)
    (model(inside).sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "its result can be trained on"


def test_a_generator_or_torchs_seed_makes_it_repeatable() -> None:
    model, (x, y), attack = small_network(), images(), PGD(0.2, steps=2)
    one, again, other = (attack(model, x, y, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    by_seed = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        by_seed += [attack(model, x, y), attack(model, x, y)]
    first, second, first_again, second_again, third, _ = by_seed
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    assert not torch.equal(first, second) and not torch.equal(first, third)


def test_a_generator_that_is_given_leaves_torchs_own_alone() -> None:
    model, before = small_network(), torch.get_rng_state()
    PGD(0.2, steps=2)(model, *images(), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float64_images_are_attacked_in_float64(norm: str) -> None:
    x, y = images()
    attack = PGD(0.2, norm=norm, steps=3)
    attacked = attack(small_network().double(), x.double(), y, generator=seeded())
    single = attack(small_network(), x, y, generator=seeded())
    assert attacked.dtype == torch.float64
    assert ((attacked - single).abs() > 1e-5).double().mean() < 0.01


def test_a_model_without_parameters_is_attacked_too() -> None:
    x, y = images(low=0.4, high=0.6)
    model = nn.Flatten()  # class 1 grows with pixel 1
    attacked = FGSM(0.1)(model, x, y)
    assert torch.allclose((attacked - x).flatten(1)[torch.arange(len(y)), y], torch.tensor(-0.1))


X, Y = images()
OFF = torch.device("meta")


def call(model: Any = None, x: Any = X, y: Any = Y, **attack: Any) -> Tensor:
    return PGD(**{"epsilon": 0.1, "steps": 1, **attack})(small_network() if model is None else model, x, y)


def test_what_is_refused_below_is_taken_where_it_is_right() -> None:
    call()
    call(norm="l2", epsilon=6.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": lambda x: x}, "model is a function: a torch.nn.Module"),
        ({"x": (255 * X).to(torch.uint8)}, "images are torch.uint8: .* Divide uint8 images by 255"),
        ({"x": X.half()}, "images are torch.float16"),
        ({"x": X[0]}, r"images: of shape \(1, 6, 6\); a tensor \[N, C, H, W\]"),
        ({"x": X[:0], "y": Y[:0]}, r"images: of shape \(0, 1, 6, 6\)"),
        ({"x": X.numpy()}, "images: a ndarray"),
        ({"x": 255 * X}, r"images are in \[.*\]: \[0, 1\] is needed"),
        ({"x": X - 0.5}, r"images are in \[-0\.4.*sparring\.Normalize"),
        ({"x": X.where(X.max() > X, torch.nan)}, "images contain NaN"),
        ({"x": X.where(X.max() > X, torch.inf)}, "images are in"),
        ({"y": Y.int()}, r"labels: torch\.int32 \(16,\); class numbers, int64 \[16\]"),
        ({"y": Y[:-1]}, r"labels: torch\.int64 \(15,\)"),
        ({"y": nn.functional.one_hot(Y)}, r"labels: torch\.int64 \(16, 2\)"),
        ({"y": Y.tolist()}, "labels: list"),
        ({"y": torch.where(Y == 0, -100, Y)}, "labels: the smallest is -100"),
        ({"model": small_network().to(OFF)}, "devices differ: images on cpu, labels on cpu, model on meta"),
        ({"x": X.to(OFF)}, "devices differ: images on meta"),
        ({"y": Y.to(OFF)}, "devices differ: .*labels on meta"),
        ({"epsilon": -0.1}, "epsilon = -0.1: "),
        ({"epsilon": 8.0}, "epsilon = 8.0: .* from 0 to 1 under linf. Divide a radius"),
        ({"norm": "l2", "epsilon": 8.0}, r"epsilon = 8 under l2: .* of shape \(1, 6, 6\) .* at most 6 apart"),
        ({"norm": "Linf"}, "norm = 'Linf': it must be 'linf' or 'l2'"),
        ({"start": "random"}, "start = 'random': "),
        ({"loss": "cw"}, "loss = 'cw': it must be 'ce' or 'kl'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_is_wrong_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        call(**wrong)


def test_a_refused_call_changes_nothing() -> None:
    model = network_with_batch_norm()
    before, state = state_of(model), torch.get_rng_state()
    with pytest.raises(ValueError, match="images are in"):
        PGD(0.1)(model, 2 * X, Y)
    assert equal(state_of(model), before) and torch.equal(torch.get_rng_state(), state)


def test_a_label_that_the_model_has_no_logit_for_is_refused() -> None:
    model, (x, y) = small_network(), images()
    y[-1] = 10
    with pytest.raises(ValueError, match="labels: the largest is 10, but model returns 10 logits"):
        PGD(0.2)(model, x, y)


def test_images_that_the_model_cannot_take_are_refused() -> None:
    model, (x, y) = small_network(), images()
    for wrong, what in ((x.double(), "torch.float64"), (x[..., 1:], "torch.float32")):
        with pytest.raises(ValueError, match=f"images: model cannot take {what} images of "):
            PGD(0.2)(model, wrong, y)


def test_a_generator_is_a_generator() -> None:
    model, (x, y) = small_network(), images()
    with pytest.raises(ValueError, match="generator is a int"):
        PGD(0.2)(model, x, y, generator=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: (255 * x).round() / 255, "of exactly zero"),
        (lambda x: x.clamp_min(1.0).sub(1.0).sqrt() + x, "not finite"),
        (lambda x: x, None),
    ],
    ids=["rounding", "a root of 0", "sound"],
)
def test_useless_gradients_are_warned_of(change: Callable[[Tensor], Tensor], said: str | None) -> None:
    network, (x, y) = small_network(), images()

    class Changed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(change(x))
            return logits

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        PGD(0.1, steps=2)(Changed(), x, y)
    assert [said is not None and said in str(each.message) for each in told] == [True] * (said is not None)
    assert all(each.filename == __file__ for each in told)


class Leaves(PGD):
    def project(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        return delta


class OneRow(PGD):
    def step(self, delta: Tensor, gradient: Tensor, sizes: Tensor, state: State) -> Tensor:
        return super().step(delta, gradient, sizes, state)[:1]


class InPlace(PGD):
    def project(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        x += 0.5
        return super().project(delta, x, radius)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Leaves, r"attack Leaves: it made a perturbation of norm 0\.\d+ in a ball of 0\.1 \(linf\)"),
        (OneRow, r"attack OneRow: step returns torch.float32 \(1, .*\) for torch.float32 \(\d\d?, "),
    ],
)
def test_an_attack_of_ones_own_that_leaves_its_ball_or_an_example_out_is_refused(kind: type[PGD], said: str) -> None:
    model, (x, y) = small_network(), images()
    attack = kind(0.1, steps=3, step_size=0.5)
    with pytest.raises(ValueError, match=said):
        attack(model, x, y)
    with pytest.raises(ValueError, match=said):
        sparring.evaluate(model, (x, y), attack)


def test_an_attack_that_changes_the_images_it_gets_is_measured_by_the_callers() -> None:
    model, (x, y) = small_network(), images()
    with pytest.raises(ValueError, match=r"attack InPlace: it made a perturbation of norm"):
        InPlace(0.1, steps=3)(model, x, y)
