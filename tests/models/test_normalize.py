"""Normalisation inside the model: by channel or alike for all, and never by the wrong channels."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

import sparring


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    x = torch.rand(4, 2, 3, 5)
    made = sparring.Normalize((0.25, 0.5), [0.5, 2.0])(x)
    assert torch.equal(made[:, 0], (x[:, 0] - 0.25) / 0.5) and torch.equal(made[:, 1], (x[:, 1] - 0.5) / 2.0)


def test_one_number_is_for_all_channels() -> None:
    x = torch.rand(4, 3, 3, 5)
    assert torch.equal(sparring.Normalize(0.5, 0.25)(x), (x - 0.5) / 0.25)


def test_a_state_dict_holds_both() -> None:
    assert set(sparring.Normalize(0.5, torch.tensor([0.25, 1.0])).state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("std", [0, -1.0, (0.5, 0.0), float("nan")])
def test_a_deviation_that_is_not_above_0_is_refused(std: Any) -> None:
    with pytest.raises(ValueError, match=r"std = .* must be above 0"):
        sparring.Normalize(0.5, std)


def test_other_channels_are_refused_and_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"images of shape \(2, 1, 4, 4\) for mean and std of 3 channels"):
        sparring.Normalize((0.1, 0.2, 0.3), 1.0)(torch.rand(2, 1, 4, 4))


def test_torch_is_not_imported_with_the_package() -> None:
    asked = "import sys, sparring; assert 'torch' not in sys.modules; sparring.Normalize; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", asked], check=True)
