"""`sparring.evaluate`: figures of one's own model on one's own data, or a sentence that names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparring
from sparring.attacks import FGSM, PGD
from sparring.data.sampling import Draw, stratified
from sparring.evaluation import robustness
from tests.support.digits import half_trained, training_digits

EPSILON, STEPS, RESTARTS, COUNT = 0.1, 4, 2, 60
HOW: dict[str, Any] = {"epsilon": EPSILON, "steps": STEPS, "restarts": RESTARTS}
OWN: dict[str, Any] = {"steps": None, "restarts": None}  # AutoAttack has its own


class Pictures:
    """As torchvision's datasets are: items (PIL image, label), names of the classes, a length."""

    classes = tuple("0123456789")

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.pictures = [Image.fromarray(image[0].numpy()) for image in images]
        self.targets = labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pictures[index], self.targets[index]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return half_trained(training_digits())


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 [60, 1, 8, 8]"""
    return training_digits().images(torch.arange(COUNT))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return training_digits().labels[:COUNT]


def figures(found: sparring.Evaluation) -> dict[str, Any]:
    """All but the time that it took, and how its examples were chosen."""
    return {name: value for name, value in found.as_dict().items() if name not in ("seconds", "drawn")}


WAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "TensorDataset of bytes": TensorDataset,
    "TensorDataset of floats": lambda images, labels: TensorDataset(images.float() / 255, labels),
    "DataLoader": lambda images, labels: DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=True),
    "pair of tensors": lambda images, labels: (images, labels),
    "pair of arrays": lambda images, labels: (images[:, 0].numpy(), labels.numpy()),
    "PIL images": Pictures,
    "DataLoader of PIL images": lambda images, labels: DataLoader(Pictures(images, labels), batch_size=None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("way", WAYS)
def test_the_figures_are_the_same_however_the_data_are_given(
    model: nn.Module, images: Tensor, labels: Tensor, way: str
) -> None:
    data = WAYS[way](images, labels)
    found = sparring.evaluate(model, data, **HOW, batch_size=25, seed=3, per_example=True)
    attack = PGD(EPSILON, steps=STEPS, restarts=RESTARTS)
    expected = robustness.evaluate(model, training_digits(), attack, samples=COUNT, draw="first", batch_size=25, seed=3)
    assert (found.clean_accuracy, found.robust_accuracy) == (expected.clean_accuracy, expected.robust_accuracy)
    assert 0 < found.robust_accuracy < found.clean_accuracy < 1, "else this would show little"
    assert (found.samples, found.attack) == (COUNT, "PGD-4, 2 restarts, step 0.0625, linf 0.1")
    assert found.verdicts is not None and expected.verdicts is not None
    assert torch.equal(found.verdicts.clean, expected.verdicts.clean)
    assert torch.equal(found.verdicts.robust, expected.verdicts.robust)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The two shares p at which (successes/total − p)² = z²·p(1 − p)/total, by the quadratic formula."""
    z, share = 1.959963984540054, successes / total
    a, b, c = 1 + z * z / total, -(2 * share + z * z / total), share * share
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def test_verdicts_are_kept_on_request_and_the_figures_and_intervals_are_theirs(
    model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    found = sparring.evaluate(model, (images, labels), **HOW, per_example=True)
    assert found.verdicts is not None
    clean, robust = found.verdicts
    assert torch.equal(clean, model(images.float() / 255).argmax(1) == labels)
    assert not (robust & ~clean).any(), "what is wrong without an attack is not robust"
    for verdicts, accuracy, interval in (
        (clean, found.clean_accuracy, found.clean_interval),
        (robust, found.robust_accuracy, found.robust_interval),
    ):
        assert verdicts.dtype == torch.bool and verdicts.shape == (COUNT,)
        assert accuracy == int(verdicts.sum()) / COUNT
        assert interval == pytest.approx(wilson(int(verdicts.sum()), COUNT), abs=1e-6)
    assert sparring.evaluate(model, (images, labels), **HOW).verdicts is None


@pytest.mark.parametrize("draw", ["stratified", "first"])
def test_so_many_examples_are_taken_and_progress_is_a_sentence(
    model: nn.Module, images: Tensor, labels: Tensor, draw: Draw
) -> None:
    sentences: list[str] = []
    how: dict[str, Any] = {**HOW, "batch_size": 8, "progress": sentences.append}
    found = sparring.evaluate(model, (images, labels), **how, samples=20, draw=draw)
    chosen = torch.arange(20) if draw == "first" else stratified(labels, 20)
    alone = sparring.evaluate(model, (images[chosen], labels[chosen]), **how, classes=10)
    assert figures(found) == figures(alone)
    assert sentences[-1] == "20 of 20 test examples attacked"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_of_ones_own_is_taken_as_it_is(model: nn.Module, images: Tensor, labels: Tensor, norm: str) -> None:
    attack = FGSM(0.2, norm=norm)
    found = sparring.evaluate(model, (images, labels), attack)
    alive = model(attack(model, images.float() / 255, labels)).argmax(1) == labels
    assert found.robust_accuracy == float((alive & (model(images.float() / 255).argmax(1) == labels)).double().mean())


def test_autoattack_is_the_standard_ensemble(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = sparring.evaluate(model, (images[:8], labels[:8]), "autoattack", 0.3, classes=10, per_example=True)
    expected = robustness.evaluate_by_autoattack(model, training_digits(), PGD(0.3), samples=8, draw="first")
    assert figures(found) == figures(expected) and found.attack.startswith("AutoAttack")
    assert found.verdicts is not None and expected.verdicts is not None
    assert torch.equal(found.verdicts.robust, expected.verdicts.robust)


class WithBatchNorm(nn.Module):
    """In train mode but for one part, with statistics, gradients and a frozen weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.linear = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(64, 10)
        self.linear.bias.requires_grad_(False)
        self.linear.weight.grad = torch.ones_like(self.linear.weight)
        self.train()
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 8, 8]."""
        logits: Tensor = self.linear(self.dropout(self.norm(x).flatten(1)))
        return logits


@pytest.mark.parametrize("surroundings", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_of_the_model_is_changed(images: Tensor, labels: Tensor, surroundings: Callable[[], Any]) -> None:
    model = WithBatchNorm()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [each.training for each in model.modules()]
    torch.manual_seed(5)
    random = torch.get_rng_state()
    with surroundings():
        found = sparring.evaluate(model, (images, labels), **HOW)
    assert figures(found) == figures(sparring.evaluate(model, (images, labels), **HOW))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert [each.training for each in model.modules()] == modes
    assert [each.requires_grad for each in model.parameters()] == [True, True, True, False]
    gradients = [each.grad for each in model.parameters()]
    assert gradients[2] is not None and torch.equal(gradients[2], torch.ones(10, 64))
    assert [gradient is None for gradient in gradients] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), random)


class Weightless(nn.Module):
    """Ten classes by the brightness of ten pixels, and no parameter."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 8, 8]."""
        return x.flatten(1)[:, 20:30]


def test_a_model_without_parameters_is_evaluated_too(images: Tensor, labels: Tensor) -> None:
    found = sparring.evaluate(Weightless(), (images, labels), **HOW)
    clean = images.flatten(1)[:, 20:30].argmax(1) == labels
    assert found.clean_accuracy == float(clean.double().mean())


SMALL = {"data": (torch.zeros(3, 1, 4, 4), torch.arange(3)), "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 3))}
ONE_CLASS = {
    "data": (torch.zeros(3, 1, 8, 8), torch.zeros(3).long()),
    "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "resnet"}, "model is a str: a torch.nn.Module is needed"),
        ({"model": nn.Linear(3, 10)}, r"model cannot take images of \(1, 8, 8\)"),
        ({"model": nn.Flatten(0)}, r"model returns \(64,\) for one image"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, "model returns 4 logits, but data has 10 classes"),
        ({"data": torch.zeros(3, 1, 8, 8)}, "data: example 0 is a Tensor; a pair"),
        ({"data": "digits"}, "data: example 0 is a str; a pair"),
        ({"data": 3}, "data: a int cannot be used as data"),
        ({"data": (torch.full((3, 1, 8, 8), 2.0), torch.zeros(3).long())}, "data: images range from 2 to 2"),
        ({"data": (torch.zeros(3, 1, 8, 8), torch.zeros(3))}, "data: labels are float32"),
        ({"data": (torch.zeros(0, 1, 8, 8), torch.zeros(0).long())}, "data has no examples"),
        ({"attack": "pdg"}, "attack = 'pdg': it must be 'pgd', 'autoattack', or a sparring.attacks.Attack"),
        ({"attack": PGD}, "attack = <class .*PGD'>: it must be"),
        (
            {"attack": PGD(0.1, start="zero", loss="kl"), **OWN, "epsilon": None, "norm": None},
            "loss = 'kl' with start = 'zero'",
        ),
        ({"attack": PGD(0.1)}, "epsilon = 0.1: the attack has its own"),
        ({"attack": PGD(0.1), "epsilon": None, "norm": "l2"}, "norm = 'l2': the attack has its own"),
        ({"attack": PGD(0.1), "epsilon": None, "steps": 7}, "steps = 7: the attack has its own"),
        ({"attack": "autoattack", "steps": None, "restarts": 2}, "restarts = 2: AutoAttack has its own"),
        ({"seed": "a"}, "seed = 'a': an integer is needed"),
        ({"epsilon": None}, "epsilon is missing"),
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epsilon": 8}, "epsilon = 8: a radius in pixel intensities"),
        ({"epsilon": 80.0, "norm": "l2"}, "epsilon = 80"),
        ({"norm": ""}, "norm = '': it must be 'linf' or 'l2'"),
        ({"norm": "Linf"}, "norm = 'Linf': it must be 'linf' or 'l2'"),
        ({"steps": 0}, "steps = 0: an integer of at least 1"),
        ({"steps": 2.5}, "steps = 2.5: an integer of at least 1"),
        ({"step_size": -1.0}, "step_size = -1"),
        ({"restarts": 0}, "restarts = 0: an integer of at least 1"),
        ({"draw": "last"}, "draw = 'last': it must be 'stratified' or 'first'"),
        ({"samples": 0}, "samples = 0: an integer of at least 1"),
        ({"samples": 2.5}, "samples = 2.5: an integer of at least 1"),
        ({"batch_size": 0}, "batch_size = 0: an integer of at least 1"),
        ({"classes": 3}, "data: labels range from 0 to 9, and there are 3 classes"),
        ({"classes": 11}, "model returns 10 logits, but data has 11 classes"),
        ({"attack": "autoattack", **OWN, **ONE_CLASS}, "attack = 'autoattack' on data of 1 class"),
        ({"attack": "autoattack", **OWN, "norm": "l2", **SMALL}, "attack = 'autoattack' .* 'l2' on images of 4 pixels"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_the_arguments_name(
    model: nn.Module, images: Tensor, labels: Tensor, changes: dict[str, Any], reason: str
) -> None:
    given: dict[str, Any] = {"model": model, "data": (images, labels), **HOW, **changes}
    with pytest.raises(ValueError, match=f"^{reason}"):
        sparring.evaluate(given.pop("model"), given.pop("data"), **given)
