"""Attacks against cases whose optimum is known, an independent float64 transcription, and foolbox."""

from __future__ import annotations

import math

import foolbox
import pytest
import torch
from sparring.attacks.gradient import cross_entropy, starting_point
from torch import Tensor, nn

from sparring.attacks import PGD, Attack, attack_from, frozen, input_gradient, iterate, perturb, perturbed, warmed_up
from sparring.config import AttackSettings

NORMS = ("linf", "l2")


def linear_model(pixels: int, classes: int = 2) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval().requires_grad_(False)


def small_network() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def images(count: int = 16, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(count, 1, 6, 6, generator=random)
    return x, torch.randint(0, 2, (count,), generator=random)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 7])
def test_on_a_linear_model_pgd_and_fgsm_reach_the_known_linf_optimum(steps: int) -> None:
    model, (x, y) = linear_model(36), images(low=0.4, high=0.6)
    delta = perturb(model, x, y, PGD(0.1, steps=steps, step_size=2.5 * 0.1 / steps, start="zero"), random())
    weight = model[1].weight  # type: ignore[index]
    direction = (weight[1 - y] - weight[y]).sign().view_as(x)
    assert torch.allclose(delta, 0.1 * direction, atol=1e-6)


def test_on_a_linear_model_l2_pgd_reaches_the_known_optimum() -> None:
    model, (x, y) = linear_model(36), images(low=0.4, high=0.6)
    delta = perturb(model, x, y, PGD(0.2, norm="l2", steps=5, step_size=0.1, start="uniform"), random())
    weight = model[1].weight  # type: ignore[index]
    direction = weight[1 - y] - weight[y]
    wanted = 0.2 * direction / direction.norm(dim=1, keepdim=True)
    one = perturb(model, x, y, PGD(0.2, norm="l2", steps=200, step_size=0.05, start="uniform"), random())
    assert torch.allclose(one.flatten(1), wanted, atol=2e-3)
    assert torch.all((delta.flatten(1) * wanted).sum(1) > 0.5 * 0.2**2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("restarts", [1, 3])
def test_a_perturbation_is_inside_its_ball_and_the_image_inside_the_box(
    norm: str, epsilon: float, restarts: int
) -> None:
    model, (x, y) = small_network(), images()
    delta = perturb(
        model, x, y, PGD(epsilon, norm=norm, steps=4, step_size=epsilon, start="uniform", restarts=restarts), random()
    )
    given = perturbed(x, delta)
    size = (given - x).abs().amax() if norm == "linf" else (given - x).flatten(1).norm(dim=1).amax()
    assert size <= epsilon + 1e-6
    assert given.min() >= 0
    assert given.max() <= 1


def float64_pgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, attack: Attack) -> Tensor:
    """Mądry et al., equation for x^{t+1}, written out in float64."""
    model, delta, rows = model.double(), start.double(), x.double()
    for _ in range(attack.steps):
        point = (rows + delta).requires_grad_(True)
        nn.functional.cross_entropy(model(point), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
        assert point.grad is not None
        gradient = point.grad
        if attack.norm == "linf":
            delta = (delta + attack.step_size * gradient.sign()).clamp(-attack.epsilon, attack.epsilon)
        else:
            for i in range(len(delta)):
                delta[i] += attack.step_size * gradient[i] / gradient[i].norm()
                delta[i] *= min(1.0, attack.epsilon / float(delta[i].norm()))
        delta = (rows + delta).clamp(0, 1) - rows
    return delta


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_agrees_with_a_float64_transcription(norm: str) -> None:
    x, y = images()
    attack = PGD(0.2, norm=norm, steps=6, step_size=0.05, start="zero")
    ours = perturb(small_network(), x, y, attack, random())
    theirs = float64_pgd(small_network(), x, y, torch.zeros_like(x), attack)
    assert (ours - theirs).abs().max() < 1e-4 if norm == "l2" else ((ours - theirs).abs() > 1e-5).float().mean() < 0.01


def network_with_batch_norm() -> nn.Module:
    """In train mode, its running statistics far from those of a batch."""
    torch.manual_seed(5)
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(
        {**norm.state_dict(), "running_mean": torch.full((4,), 0.3), "running_var": torch.full((4,), 0.5)}
    )
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).train()


def float64_attack(objective: str, x: Tensor, y: Tensor, settings: AttackSettings, noise: Tensor) -> Tensor:
    """The inner loop of TRADES (divergence) and MART (cross-entropy) in float64; under L2 with the norms' own steps."""
    model, rows, point = network_with_batch_norm().eval().double(), x.double(), (x + noise).double()
    alpha = 2.5 * settings.epsilon / settings.steps
    with torch.no_grad():
        natural = model(rows).softmax(1)
    for _ in range(settings.steps):
        point = point.detach().requires_grad_(True)
        logits = model(point)
        if objective == "trades":
            loss = (natural * (natural.log() - logits.log_softmax(1))).sum()
        else:
            loss = -logits.log_softmax(1)[torch.arange(len(y)), y].sum()
        (gradient,) = torch.autograd.grad(loss, point)
        if settings.norm == "linf":
            point = torch.minimum(
                torch.maximum(point + alpha * gradient.sign(), rows - settings.epsilon), rows + settings.epsilon
            )
        else:
            sizes = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = point + alpha * gradient / sizes - rows
            reach = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            point = rows + delta * (settings.epsilon / reach).clamp(max=1)
        point = point.clamp(0, 1)
    return point - rows


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", ["trades", "mart"])
def test_the_attacks_of_trades_and_mart_agree_with_a_float64_transcription(objective: str, norm: str) -> None:
    """Start beside the image and not clamped, the objective's loss, step, ball, box; running statistics."""
    (x, y), model = images(), network_with_batch_norm()
    x[0, 0, :3], x[0, 0, 3:] = 0.0, 1.0  # the start leaves the box here
    settings = AttackSettings.model_validate({"norm": norm, "epsilon": 0.2, "steps": 6})
    noise = 0.001 * torch.randn(x.shape, generator=random())
    with frozen(model):
        ours = perturb(model, x, y, attack_from(settings, 0.2, objective), random())
    theirs = float64_attack(objective, x, y, settings, noise)
    assert model.training and ((ours - theirs).abs() > 1e-4).double().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "objective", "start", "loss"),
    [
        ("pgd", "pgd-at", "uniform", "ce"),
        ("pgd", "trades", "gaussian", "kl"),
        ("pgd", "mart", "gaussian", "ce"),
        ("fgsm", "mart", "zero", "ce"),
        ("fgsm-rs", "trades", "uniform", "kl"),
        ("fgsm-rs", "mart", "uniform", "ce"),
        ("n-fgsm", "trades", "uniform", "kl"),
    ],
)
def test_start_and_loss_are_the_objectives_but_a_name_that_says_its_start_has_it(
    name: str, objective: str, start: str, loss: str
) -> None:
    attack = attack_from(AttackSettings.model_validate({"name": name}), 0.1, objective)
    assert (attack.start, attack.loss) == (start, loss)


def test_the_gaussian_start_is_neither_put_into_the_ball_nor_into_the_image() -> None:
    x = torch.zeros(4, 1, 6, 6)
    start = starting_point(x, PGD(1e-4, steps=1, step_size=1e-4, start="gaussian"), random())
    assert torch.equal(start, 0.001 * torch.randn(x.shape, generator=random()))
    assert start.min() < 0 and start.abs().max() > 1e-3


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
    ours = perturbed(x, perturb(model, x, y, attack, random()))
    assert ((ours - found).abs() > 1e-4).float().mean() < 0.01


def test_the_worst_of_the_restarts_is_kept_example_by_example() -> None:
    model, (x, y) = small_network(), images()
    once = [
        cross_entropy(model(perturbed(x, delta)), y)
        for delta in _restart_by_restart(model, x, y, PGD(0.3, steps=2, step_size=0.2, start="uniform", restarts=5))
    ]
    worst = torch.stack(once).amax(0)
    several = perturb(model, x, y, PGD(0.3, steps=2, step_size=0.2, start="uniform", restarts=5), random())
    assert torch.allclose(cross_entropy(model(perturbed(x, several)), y), worst)
    assert (torch.stack(once).argmax(0) != 4).any(), "the case must have an example whose worst is not the last"


def _restart_by_restart(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> list[Tensor]:
    one = PGD(attack.epsilon, norm=attack.norm, steps=attack.steps, step_size=attack.step_size)
    generator = random()
    return [perturb(model, x, y, one, generator) for _ in range(attack.restarts)]


def test_no_parameter_gradients_are_computed_and_modes_are_restored() -> None:
    model = small_network().train().requires_grad_(True)
    x, y = images()
    asked: list[int] = []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: asked.append(1))  # type: ignore[no-untyped-call]
    with frozen(model):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        perturb(model, x, y, PGD(0.1, steps=3, step_size=0.05), random())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    input_gradient(model, x, y, cross_entropy)
    assert asked == []


def test_each_example_takes_its_own_number_of_steps() -> None:
    model, (x, y) = small_network(), images(6)
    attack = PGD(0.2, steps=5, step_size=0.05, start="zero")
    counts = torch.tensor([0, 1, 2, 3, 4, 5])
    together = _run(iterate(model, x, y, attack, random(), step_counts=counts))
    for row, count in enumerate(counts.tolist()):
        if count == 0:
            assert torch.equal(together[row], torch.zeros_like(together[row]))
            continue
        alone = PGD(0.2, steps=count, step_size=0.05, start="zero")
        single = perturb(model, x[row : row + 1], y[row : row + 1], alone, random())
        assert torch.allclose(together[row], single[0], atol=1e-6)


def test_each_example_may_have_its_own_step_size() -> None:
    model, (x, y) = small_network(), images(3, 0.4, 0.6)
    attack = PGD(0.3, steps=1, step_size=0.1, start="zero")
    sizes = torch.tensor([0.01, 0.1, 0.2])
    delta = _run(iterate(model, x, y, attack, random(), step_sizes=sizes))
    assert torch.allclose(delta.flatten(1).abs().amax(1), sizes, atol=1e-6)


def test_newer_weights_may_be_loaded_between_two_steps() -> None:
    old, new, (x, y) = linear_model(36), linear_model(36), images(4, 0.4, 0.6)
    with torch.no_grad():
        new[1].weight.mul_(-1)  # type: ignore[index]
    steps = iterate(old, x, y, PGD(0.3, steps=2, step_size=0.1, start="zero"), random())
    next(steps)
    next(steps)
    old.load_state_dict(new.state_dict())
    delta = _finish(steps)
    assert torch.allclose(delta, torch.zeros_like(delta), atol=1e-6), "the second step must undo the first"


def _run(steps: object) -> Tensor:
    return _finish(steps)


def _finish(steps: object) -> Tensor:
    while True:
        try:
            next(steps)  # type: ignore[call-overload]
        except StopIteration as done:
            delta: Tensor = done.value
            return delta


@pytest.mark.parametrize(
    ("name", "norm", "steps", "step_size", "start"),
    [
        ("pgd", "linf", 8, 2.5 * 0.3 / 8, "uniform"),
        ("pgd", "l2", 20, 2.5 * 0.3 / 20, "uniform"),
        ("fgsm", "linf", 1, 0.3, "zero"),
        ("fgsm-rs", "linf", 1, 1.25 * 0.3, "uniform"),
    ],
)
def test_step_size_rules_of_the_papers(name: str, norm: str, steps: int, step_size: float, start: str) -> None:
    settings = AttackSettings(name=name, norm=norm, epsilon=0.3, steps=steps)
    attack = attack_from(settings, 0.3)
    assert (attack.steps, attack.start) == (steps, start)
    assert math.isclose(attack.step_size, step_size)
    assert math.isclose(attack_from(settings, 0.15).step_size, step_size / 2), "the step warms up with epsilon"


def test_epsilon_warms_up_linearly_to_its_full_size() -> None:
    assert math.isclose(warmed_up(0.3, 0, 10), 0.03)
    assert math.isclose(warmed_up(0.3, 4, 10), 0.15)
    assert warmed_up(0.3, 9, 10) == warmed_up(0.3, 1000, 10) == 0.3
    assert warmed_up(0.3, 0, 0) == 0.3


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_in_the_ball_and_depend_on_the_generator_alone(norm: str) -> None:
    model, (x, y) = small_network(), images()
    attack = PGD(0.3, norm=norm, steps=1, step_size=1e-12)
    one, two, other = (perturb(model, x, y, attack, random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
