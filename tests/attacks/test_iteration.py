"""The iteration: restarts, steps and step sizes by example, the state of a step rule, weights that change meanwhile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import (
    PGD,
    Attack,
    WarmStart,
    cross_entropy,
    frozen,
    input_gradient,
    iterate,
    perturb,
    perturbed,
    result_of,
    targets_of,
)
from sparring.attacks.iteration import starting_point
from sparring.attacks.norms import random_start
from tests.support.batches import images, linear_model, network_with_batch_norm, seeded, small_network
from tests.support.momentum import Momentum


def test_the_worst_of_the_restarts_is_kept_example_by_example() -> None:
    model, (x, y) = small_network(), images()
    generator, one = seeded(), PGD(0.3, steps=2, step_size=0.2)
    once = [cross_entropy(model(perturbed(x, perturb(model, x, y, one, generator))), y) for _ in range(5)]
    worst = torch.stack(once).amax(0)
    several = perturb(model, x, y, PGD(0.3, steps=2, step_size=0.2, restarts=5), seeded())
    assert torch.allclose(cross_entropy(model(perturbed(x, several)), y), worst)
    assert (torch.stack(once).argmax(0) != 4).any(), "the case must have an example whose worst is not the last"


def test_no_parameter_gradients_are_computed_and_modes_are_restored() -> None:
    model, (x, y) = network_with_batch_norm(), images()
    next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d)).eval().weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    asked: list[int] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: asked.append(1))  # type: ignore[no-untyped-call]
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        perturb(model, x, y, PGD(0.1, steps=3, step_size=0.05), seeded())
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert flags == [True, True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    input_gradient(model, x, y, cross_entropy)
    assert asked == []


def test_a_model_is_restored_where_the_attack_fails() -> None:
    model = network_with_batch_norm()
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "attack", [PGD(0.2, steps=5, step_size=0.05, start="zero"), Momentum(0.2, steps=5, step_size=0.03, start="zero")]
)
def test_each_example_takes_its_own_number_of_steps(attack: Attack) -> None:
    model, (x, y) = small_network(), images(6)
    counts = torch.tensor([3, 0, 5, 1, 2, 4])
    together = result_of(iterate(model, x, y, attack, seeded(), step_counts=counts))
    for row, count in enumerate(counts.tolist()):
        if count == 0:
            assert torch.equal(together[row], torch.zeros_like(together[row]))
            continue
        alone = type(attack)(0.2, steps=count, step_size=attack.step_size, start="zero")
        single = perturb(model, x[row : row + 1], y[row : row + 1], alone, seeded())
        assert torch.allclose(together[row], single[0], atol=1e-6)


def test_an_example_without_steps_keeps_no_random_start() -> None:
    model, (x, y) = small_network(), images(3)
    counts = torch.tensor([1, 0, 2])
    delta = result_of(iterate(model, x, y, PGD(0.2, steps=2), seeded(), step_counts=counts))
    assert delta.flatten(1).any(1).tolist() == [True, False, True]


def test_each_example_may_have_its_own_step_size() -> None:
    model, (x, y) = small_network(), images(3, 0.4, 0.6)
    sizes = torch.tensor([0.01, 0.1, 0.2])
    attack = PGD(0.3, steps=1, step_size=0.1, start="zero")
    delta = result_of(iterate(model, x, y, attack, seeded(), step_sizes=sizes))
    assert torch.allclose(delta.flatten(1).abs().amax(1), sizes, atol=1e-6)


def float64_momentum(model: nn.Module, x: Tensor, y: Tensor, attack: Momentum) -> Tensor:
    """Dong et al., equations 6 and 7, one image after the other."""
    model, found = model.double(), []
    for image, label in zip(x.double(), y, strict=True):
        delta, velocity = torch.zeros_like(image), torch.zeros_like(image)
        for _ in range(attack.steps):
            point = (image + delta).requires_grad_(True)
            loss = nn.functional.cross_entropy(model(point[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, point)
            velocity = attack.decay * velocity + gradient / gradient.abs().mean()
            delta = (delta + attack.alpha * velocity.sign()).clamp(-attack.epsilon, attack.epsilon)
            delta = (image + delta).clamp(0, 1) - image
        found.append(delta)
    return torch.stack(found)


class FromTheImage(Momentum):
    """Each attempt begins at the image."""

    def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(x)


def test_a_step_rule_keeps_its_state_from_step_to_step_and_begins_anew_at_each_restart() -> None:
    x, y = images()
    attack = Momentum(0.2, steps=6, step_size=0.03, start="zero")
    ours = perturb(small_network(), x, y, attack, seeded())
    theirs = float64_momentum(small_network(), x, y, attack)
    assert ((ours - theirs).abs() > 1e-5).double().mean() < 0.01
    forgetful = perturb(small_network(), x, y, PGD(0.2, steps=6, step_size=0.03, start="zero"), seeded())
    assert ((ours - forgetful).abs() > 1e-5).double().mean() > 0.02, "the state must make a difference"
    twice = FromTheImage(0.2, steps=6, step_size=0.03, restarts=2)
    assert torch.equal(perturb(small_network(), x, y, twice, seeded()), ours)


def test_newer_weights_may_be_loaded_between_two_steps() -> None:
    model, (x, y) = linear_model(), images(4, 0.4, 0.6)
    newer = {name: -value if name.endswith("weight") else value for name, value in model.state_dict().items()}
    numbers: list[int] = []

    def before(step: int) -> None:
        numbers.append(step)
        if step == 1:
            model.load_state_dict(newer)

    steps = iterate(model, x, y, PGD(0.3, steps=2, step_size=0.1, start="zero"), seeded())
    delta = result_of(steps, before)
    assert numbers == [0, 1]
    assert torch.allclose(delta, torch.zeros_like(delta), atol=1e-6), "the second step must undo the first"


def test_where_a_start_is_known_it_is_taken_and_elsewhere_the_attacks_own() -> None:
    x = torch.full((4, 1, 6, 6), 0.5)
    x[0] = 0.0
    attack = PGD(0.1, steps=1, step_size=1e-12)
    start = WarmStart(torch.full_like(x, -0.3), torch.tensor([True, True, False, False]))
    y = torch.zeros(4, dtype=torch.int64)
    delta = result_of(iterate(linear_model(), x, y, attack, seeded(), start=start))
    own = random_start(x, "linf", 0.1, seeded())
    assert torch.allclose(delta[2:], own[2:]) and torch.allclose(delta[1], torch.tensor(-0.1))
    assert torch.allclose(delta[0], torch.tensor(0.0)), "projected to the image"


def test_where_all_starts_are_known_nothing_is_drawn() -> None:
    x, generator = torch.full((2, 1, 6, 6), 0.5), seeded()
    start = WarmStart(torch.full_like(x, 0.05), torch.tensor([True, True]))
    assert torch.allclose(starting_point(x, PGD(0.1), generator, start), start.delta)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_targets_are_the_labels_or_predictions_on_the_clean_images() -> None:
    model, (x, y) = small_network(), images()
    assert targets_of(model, x, y, PGD(0.1)) is y
    clean = targets_of(model, x, y, PGD(0.1, loss="kl"))
    assert torch.equal(clean, model(x).softmax(1)) and not clean.requires_grad
