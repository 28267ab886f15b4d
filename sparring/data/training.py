"""A dataset as a run trains on it: augmented, at the size of the epoch's phase."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparring.data.datasets import Dataset
from sparring.data.framing import Framing


class TrainingSet:
    """Any process rebuilds the same example from its index and the epoch."""

    def __init__(
        self,
        dataset: Dataset,
        augment: str = "none",
        seed: int = 0,
        sizes: Callable[[int], int | None] = lambda epoch: None,
    ) -> None:
        self.dataset, self.augment, self.seed, self.sizes = dataset, augment, seed, sizes
        self.shape, self.classes = dataset.shape, dataset.classes
        self.labels, self.fingerprint = dataset.labels, dataset.fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        """See `Dataset.images`."""
        return self.dataset.images(indices, framing)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """The examples at `indices` (int64 [n]) in `epoch`: float32 [n, C, H, W] in [0, 1] and int64 [n]."""
        from sparring.data import batch

        return batch(self.dataset, indices, augment=self.augment, seed=self.seed, epoch=epoch, size=self.sizes(epoch))
