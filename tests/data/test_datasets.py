"""Parts of a dataset are apart and the same every time, and a fingerprint names what is in them."""

from __future__ import annotations

import pytest
import torch

from sparring.config import DataSettings, from_tree
from sparring.data import ArrayDataset, Dataset, Subset, load, split_holdout
from sparring.data.datasets import require_bytes
from sparring.errors import UsageError
from sparring.trainer.experiment import build_experiment


def everything(dataset: Dataset) -> torch.Tensor:
    return dataset.images(torch.arange(len(dataset)))


def test_the_held_out_examples_are_apart_and_the_same_every_time() -> None:
    full = load(DataSettings(), "train")
    training, heldout = split_holdout(full, 200)
    assert (len(training), len(heldout)) == (1237, 200)
    parts = [image.numpy().tobytes() for dataset in (training, heldout) for image in everything(dataset)]
    assert sorted(parts) == sorted(image.numpy().tobytes() for image in everything(full))
    again = split_holdout(full, 200)
    assert [each.fingerprint for each in again] == [training.fingerprint, heldout.fingerprint]
    assert torch.equal(again[1].labels, heldout.labels) and torch.equal(everything(again[1]), everything(heldout))


def test_runs_of_other_seeds_hold_out_the_same_images() -> None:
    heldout = [
        build_experiment(from_tree({"data": {"holdout": 200}, "train": {"seed": seed}})).heldout.fingerprint
        for seed in (0, 1)
    ]
    assert heldout[0] == heldout[1]


def test_nothing_held_out_leaves_the_training_set_as_it_is() -> None:
    full = load(DataSettings(), "train")
    training, heldout = split_holdout(full, 0)
    assert training is full and len(heldout) == 0


@pytest.mark.parametrize("holdout", [1437, 5000])
def test_holding_out_everything_is_refused(holdout: int) -> None:
    with pytest.raises(UsageError, match=f"data.holdout = {holdout} leaves none of 1437 training examples"):
        split_holdout(load(DataSettings(), "train"), holdout)


def test_a_fingerprint_names_images_labels_and_choice() -> None:
    images, labels = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8), torch.arange(8)
    other_images, other_labels = images.clone(), labels.clone()
    other_images[3, 0, 2, 1] ^= 1
    other_labels[7] = 0
    full = ArrayDataset(images, labels, 8, "toy")
    others: list[Dataset] = [
        ArrayDataset(other_images, labels, 8, "toy"),
        ArrayDataset(images, other_labels, 8, "toy"),
        ArrayDataset(images.view(8, 1, 2, 8), labels, 8, "toy"),
        Subset(full, torch.tensor([0, 1, 2])),
        Subset(full, torch.tensor([0, 2, 1])),
        Subset(full, torch.tensor([0, 1, 3])),
    ]
    assert ArrayDataset(images.clone(), labels.clone(), 8, "other name").fingerprint == full.fingerprint
    assert len({each.fingerprint for each in [full, *others]}) == 1 + len(others)


def test_only_bytes_pass_where_bytes_are_needed() -> None:
    require_bytes(load(DataSettings(), "train"), "data.size = 12")
