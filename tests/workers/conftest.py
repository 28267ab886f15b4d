"""Digits, and a network that knows them a little."""

from __future__ import annotations

import pytest
from torch import nn

from sparring.data import TrainingSet
from tests.support.digits import half_trained, training_digits


@pytest.fixture(scope="session")
def digits() -> TrainingSet:
    return training_digits()


@pytest.fixture(scope="session")
def model(digits: TrainingSet) -> nn.Module:
    return half_trained(digits)
