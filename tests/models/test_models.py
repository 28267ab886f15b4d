"""Every model takes images in [0, 1] to logits, is the same for the same seed, and says what is wrong with itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring.config import ModelSettings
from sparring.errors import UsageError
from sparring.models import Shape, build, count_parameters

DIGITS, CIFAR = (1, 8, 8), (3, 32, 32)

OWN = """
import torch
from torch import nn

def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

def batch_norm(shape, classes):
    return nn.Sequential(nn.BatchNorm2d(shape[0]), linear(shape, classes))

def no_module(shape, classes):
    return [shape, classes]

def wide(image_shape, outputs, width, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[1] ** 2, width), nn.Linear(width, outputs, bias=bias))

def empty(shape, classes):
    return nn.Flatten()

def too_few(shape, classes):
    return linear(shape, classes - 1)

def raises(shape, classes):
    raise KeyError("width")

def other_arguments():
    return nn.Flatten()

class Pair(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.inner = linear(shape, classes)

    def forward(self, x):
        return self.inner(x), x

class Colour(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.inner = nn.Conv2d(3, classes, 1)

    def forward(self, x):
        if x.shape[1] != 3:
            raise IndexError("three channels, please")
        return self.inner(x).mean((2, 3))

constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own; returns its name."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / f"{name}_broken.py").write_text("def made(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def made(name: str, shape: Shape = DIGITS, classes: int = 10, seed: int = 0) -> nn.Module:
    return build(ModelSettings(name=name), shape, classes, seed)


@pytest.mark.parametrize("name", ["digits-cnn", "mnist-16-32-100"])
def test_the_same_seed_gives_the_same_weights_and_the_global_random_state_is_untouched(name: str) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one = made(name, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two, other = made(name, seed=5).state_dict(), made(name, seed=6).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("factory", ["linear", "batch_norm"])
def test_a_model_of_ones_own_is_called_with_shape_and_classes(own: str, factory: str) -> None:
    one, two = (made(f"{own}:{factory}", CIFAR, 7) for _ in range(2))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    assert one.training and one(torch.rand(2, *CIFAR)).shape == (2, 7)


def test_a_model_may_stand_in_a_file_and_take_options(own: str, tmp_path: Path) -> None:
    for name in (f"{own}:wide", f"{tmp_path / own}.py:wide"):
        options = {"width": 7, "bias": False}
        model = build(ModelSettings(name=name, options=options), DIGITS, 10, 0)
        assert count_parameters(model) == 64 * 7 + 7 + 7 * 10


@pytest.mark.parametrize(
    ("name", "options", "reported"),
    [
        ("{own}:wide", {}, "model.options.width is missing. Set it; wide takes width, bias = True."),
        ("{own}:wide", {"width": 2, "depth": 3}, "model.options.depth = 3: no such option; wide takes"),
        ("digits-cnn", {"width": 2}, "model.options.width = 2: no such option; digits_cnn takes no options."),
        ("timm:test_resnet", {"name": "x"}, "model.options.name = 'x': the run already passes name"),
        ("timm:test_resnet", {"no_such_option": 1}, "model.name = 'timm:test_resnet' cannot be built .*no_such_option"),
    ],
)
def test_options_that_no_factory_takes_are_refused(own: str, name: str, options: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        build(ModelSettings(name=name.format(own=own), options=options), DIGITS, 10, 0)


def test_options_of_timm_are_passed_on() -> None:
    settings = ModelSettings(name="timm:test_resnet", options={"drop_rate": 0.25})
    assert build(settings, CIFAR, 10, 0).get_submodule("network").drop_rate == 0.25


def test_data_mean_and_std_stand_before_a_network_that_does_not_normalise(own: str) -> None:
    settings, mean, std = ModelSettings(name=f"{own}:linear"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    plain, model = (build(settings, CIFAR, 10, 0, normalize=each) for each in (None, (mean, std)))
    assert set(model.state_dict()) == {"normalize.mean", "normalize.std", "network.1.weight", "network.1.bias"}
    x = torch.rand(2, *CIFAR)
    standardised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(model(x), plain(standardised), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "normalize", "reported"),
    [
        ("digits-cnn", (0.5, 0.5), "data.mean = 0.5 and data.std = 0.5: model.name = 'digits-cnn' already normalises"),
        ("mnist-16-32-100", ((0.5, 0.5), 0.5), r"data.mean = \(0.5, 0.5\) .* images have 1 channels"),
    ],
)
def test_normalising_twice_or_by_other_channels_is_refused(name: str, normalize: Any, reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        build(ModelSettings(name=name), DIGITS, 10, 0, normalize=normalize)


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("mnist-16-32", "no such name; the nearest is mnist-16-32-100. Built in: .* own as module:object"),
        ("digits", "the nearest is digits-cnn"),
        (
            "no_such_module_here:make",
            "No module named 'no_such_module_here'.* must be installed, or be in the current",
        ),
        ("timm", "the nearest is timm:NAME"),
        (":make", "no such name"),
        ("{own}_broken:made", "SyntaxError"),
        ("{own}:nothing", "has no 'nothing'"),
        ("{own}:constant", r"is not a function; it is called as factory\(shape, classes\)"),
        ("{own}:no_module", "made a list, not a torch.nn.Module"),
        ("{own}:empty", "has no parameters to train"),
        ("{own}:too_few", r"outputs of shape \(1, 9\) for one image; \(1, 10\) is needed"),
        ("{own}:raises", "cannot be built for images of .*KeyError: 'width'"),
        ("{own}:other_arguments", "cannot be built for images of .*TypeError"),
        ("{own}:Pair", "returns a tuple; a tensor of logits is needed"),
        ("{own}:Colour", r"cannot take images of shape \(1, 8, 8\).*three channels, please"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(own: str, name: str, reported: str) -> None:
    full = name.format(own=own)
    with pytest.raises(UsageError, match=reported) as raised:
        made(full)
    assert str(raised.value).startswith(f"model.name = {full!r}")
