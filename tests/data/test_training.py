"""Batches are float32 in [0, 1], and the same from any process that has the indices and the epoch."""

from __future__ import annotations

import torch

from sparring.config import DataSettings, from_tree
from sparring.data import ArrayDataset, TrainingSet, batch, load, scaled, training_set


def test_a_batch_is_float32_in_0_to_1_with_its_labels() -> None:
    dataset = load(DataSettings(), "train")
    indices = torch.tensor([5, 0, 1436])
    x, y = batch(dataset, indices, augment="none", seed=0, epoch=0)
    assert x.dtype == torch.float32 and x.shape == (3, 1, 8, 8)
    assert float(x.min()) == 0.0 and float(x.max()) == 1.0
    assert torch.equal((x * 255).round().to(torch.uint8), dataset.images(indices))
    assert torch.equal(y, dataset.labels[indices]) and y.dtype == torch.int64


def test_bytes_are_divided_and_floats_stay() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(scaled(values), values.float() / 255)
    floats = torch.rand(7, dtype=torch.float64)
    assert torch.equal(scaled(floats), floats.float())


def test_a_training_set_is_its_dataset_with_how_it_is_trained_on() -> None:
    images = torch.randint(0, 256, (9, 3, 6, 6), dtype=torch.uint8)
    dataset = ArrayDataset(images, torch.arange(9) % 2, 2, "toy")
    training = TrainingSet(dataset, "crop_flip", 5, lambda epoch: 4 if epoch < 2 else None)
    assert (len(training), training.shape, training.classes) == (9, (3, 6, 6), 2)
    assert training.fingerprint == dataset.fingerprint and torch.equal(training.labels, dataset.labels)
    indices = torch.tensor([8, 1])
    assert torch.equal(training.images(indices), images[indices])
    for epoch, size in ((1, 4), (2, None)):
        expected = batch(dataset, indices, augment="crop_flip", seed=5, epoch=epoch, size=size)
        made = training.batch(indices, epoch)
        assert made[0].shape[-1] == (size or 6) and made[0].shape[1:] == training.shape_in(epoch)
        assert torch.equal(made[0], expected[0]) and torch.equal(made[1], expected[1])


def test_a_run_trains_by_its_augmentation_seed_and_phases() -> None:
    data = {"size": 10, "augment": "crop", "phases": [{"until": 0.5, "size": 6}]}
    config = from_tree({"data": data, "train": {"seed": 3, "epochs": 4}})
    dataset, indices = load(config.data, "train"), torch.arange(5)
    training = training_set(config, dataset)
    for epoch, size in ((0, 6), (3, 10)):
        expected, _ = batch(dataset, indices, augment="crop", seed=3, epoch=epoch, size=size)
        assert torch.equal(training.batch(indices, epoch)[0], expected)


def test_the_shape_of_a_batch_is_known_before_it_is_made() -> None:
    dataset = ArrayDataset(torch.zeros(4, 3, 8, 6, dtype=torch.uint8), torch.arange(4) % 2, 2, "toy")
    for augment in ("none", "resized_crop_flip"):
        training = TrainingSet(dataset, augment, 0)
        assert training.batch(torch.tensor([1]), 0)[0].shape[1:] == training.shape_in(0)
