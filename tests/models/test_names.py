"""Weights find their places whatever held the network that was saved, and never the place of another."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sparring.models.names import named_alike


class Own(nn.Module):
    """A network whose own attributes have the names of holders."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.net = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 4]."""
        logits: Tensor = self.net(self.module(x))
        return logits


class Twins(nn.Module):
    """A trained network and its teacher: the same names in both."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.teacher = nn.Linear(4, 2), nn.Linear(4, 2)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def found(names: list[str], model: nn.Module) -> list[str]:
    return list(named_alike(dict.fromkeys(names, torch.zeros(1)), model))


HOLDINGS = [
    "",
    *(f"{holder}." for holder in ("module", "_orig_mod", "model", "net")),
    *(f"{one}.{two}." for one, two in permutations(("module", "_orig_mod", "model", "net"), 2)),
    "model.net._orig_mod.module.",
    "module.module.",
]


@pytest.mark.parametrize("model", [network(), Own()], ids=["plain", "own"])
@pytest.mark.parametrize("holding", HOLDINGS)
def test_names_are_understood_in_any_nesting(holding: str, model: nn.Module) -> None:
    own = [*model.state_dict()]
    assert found([holding + name for name in own], model) == own


def test_wrappers_of_torch_are_undone() -> None:
    model, own = network(), [*network().state_dict()]
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        assert found([*wrapped.state_dict()], model) == own  # type: ignore[attr-defined]
    assert found([*AveragedModel(model).state_dict()], model) == own


def test_a_holder_within_the_names_is_left_out() -> None:
    model = nn.Sequential(nn.Flatten(), torch.compile(nn.Linear(4, 2)))  # type: ignore[call-overload]
    assert found(["1.weight", "1.bias"], model) == ["1._orig_mod.weight", "1._orig_mod.bias"]
    assert found(["1._orig_mod.weight", "1._orig_mod.bias"], nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == [
        "1.weight",
        "1.bias",
    ]


def test_a_network_that_was_saved_without_what_stands_before_it_is_found() -> None:
    model = nn.Sequential()
    model.add_module("normalize", nn.BatchNorm2d(1))
    model.add_module("resnet", network())
    own = [name for name in model.state_dict() if name.startswith("resnet.")]
    for holding in ("", "module.", "resnet.", "module.resnet."):
        assert found([holding + name.removeprefix("resnet.") for name in own], model) == own


def test_names_that_fit_several_places_or_none_stay_as_they_are() -> None:
    twins = ["model.weight", "model.bias", "net.weight", "net.bias"]
    assert found(twins, nn.Linear(4, 2)) == twins
    assert found(["model.weight", "model.bias", "teacher.weight", "teacher.bias"], Twins()) == [*Twins().state_dict()]
    assert found(["criterion.weight", "model.weight", "model.bias"], nn.Linear(4, 2)) == [
        "criterion.weight",
        "weight",
        "bias",
    ]
