"""The one place where tests look for real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# What torchvision keeps of each dataset below its root.
FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


def require_data(name: str) -> Path:
    """The torchvision root that SPARRING_DATA names; skips the test where it does not hold `name`."""
    reported = os.environ.get("SPARRING_DATA")
    if reported is None:
        pytest.skip(f"{name} is needed: set SPARRING_DATA to a torchvision root that holds it")
    root = Path(reported).expanduser()
    if not (root / FOLDERS[name]).is_dir():
        pytest.skip(f"SPARRING_DATA = {reported} does not hold {name} ({FOLDERS[name]})")
    return root
