"""The small networks have the size that their papers give, and take images of every size that leaves something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.config import ModelSettings
from sparring.errors import UsageError
from sparring.models import Shape, build, count_parameters

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
CONVOLUTIONAL = ["digits-cnn", "mnist-32-64-1024", "mnist-16-32-100"]
OF_ANY_SIZE = "cifar10-32-64-128"


def made(name: str, shape: Shape = DIGITS, classes: int = 10) -> nn.Module:
    return build(ModelSettings(name=name), shape, classes, 0)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("digits-cnn", DIGITS, 320 + 18_496 + 131_200 + 1_290),
        ("mnist-16-32-100", MNIST, 166_406),
        ("mnist-32-64-1024", MNIST, 3_274_634),
        (OF_ANY_SIZE, CIFAR, 864 + 18_432 + 73_728 + 448 + 1_290),
    ],
)
def test_the_named_networks_have_the_size_of_the_papers(name: str, shape: Shape, parameters: int) -> None:
    assert count_parameters(made(name, shape)) == parameters


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, OF_ANY_SIZE])
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (1, 13, 18)])
@pytest.mark.parametrize("classes", [2, 10])
def test_every_network_takes_every_shape_to_its_classes(name: str, shape: Shape, classes: int) -> None:
    model = made(name, shape, classes)
    assert model(torch.rand(5, *shape)).shape == (5, classes)
    assert model.training


def test_the_digits_network_normalises_inside() -> None:
    model = made("digits-cnn")
    assert isinstance(model, nn.Sequential)
    assert torch.allclose(model[0](torch.tensor([0.0, 0.3, 1.0])), torch.tensor([-0.3, 0.0, 0.7]) / 0.38)
    assert {"0.mean", "0.std"} <= set(model.state_dict())


def test_one_network_takes_images_that_grow_while_it_is_trained() -> None:
    model = made(OF_ANY_SIZE, CIFAR)
    assert {model(torch.rand(2, 3, side, side)).shape for side in (8, 16, 24, 33)} == {(2, 10)}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_images_that_are_too_small_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"model.name = '{name}' cannot"):
        made(name, (1, 1, 1))
