"""Data of one's own: a torch Dataset, here scikit-learn's digits as floats in [0, 1].

    sparring train --engine sync --data.name examples/data.py:Digits --data.options.test_share 0.3 --train.epochs 2

It is made once with split="train" and once with split="test"; what else it takes are options. Images are uint8, or
floats in [0, 1] as here, or PIL images; a random transform belongs into data.augment. Where `targets` holds all labels,
they need not be read item by item.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset


class Digits(Dataset[tuple[Tensor, int]]):
    """1,797 handwritten digits, 8×8."""

    def __init__(self, split: str, test_share: float = 0.2) -> None:
        images, labels = load_digits(return_X_y=True)
        first_for_testing = round(len(labels) * (1 - test_share))
        part = slice(first_for_testing) if split == "train" else slice(first_for_testing, None)
        self.images = torch.tensor(images[part], dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.targets = labels[part]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])
