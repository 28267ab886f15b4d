"""torchvision's datasets can be used whatever torch they meet."""

from __future__ import annotations

import subprocess
import sys

import pytest

USED = """
import torch
from sparring.machine.torchvision_import import torchvision
{before}
one = torchvision()
two = torchvision()
assert one is two
for name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "ImageFolder"):
    assert isinstance(getattr(one.datasets, name), type), name
import torchvision.datasets
assert torchvision.datasets is one.datasets
print("usable")
"""

TRIED_BEFORE = """
try:
    import torchvision as tried
except RuntimeError:
    pass
"""


@pytest.mark.parametrize("before", ["", TRIED_BEFORE], ids=["first", "after a failed import"])
def test_the_datasets_are_usable_and_importing_twice_is_fine(before: str) -> None:
    program = USED.format(before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "usable", done.stderr


@pytest.mark.parametrize("module", ["torchvision.transforms.v2", "timm"])
def test_a_users_file_may_import_it_after_sparring(module: str) -> None:
    program = f"import sparring, sys; assert 'torch' not in sys.modules; import {module}; import torchvision.datasets"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
