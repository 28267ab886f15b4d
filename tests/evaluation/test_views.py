"""A model is right on views only if it is right on both, and the views are the same for every model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparring.config import AugmixSettings
from sparring.data import augmix
from sparring.evaluation import Evaluation, evaluate_views
from sparring.evaluation.robustness import interval
from tests.support.digits import half_trained, training_digits

COUNT, SETTINGS = 120, AugmixSettings(severity=10.0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return half_trained(training_digits())


def evaluated(model: nn.Module, batch_size: int = 50, seed: int = 4) -> Evaluation:
    how: dict[str, Any] = {"samples": COUNT, "draw": "first", "batch_size": batch_size, "seed": seed}
    return evaluate_views(model, training_digits(), SETTINGS, **how)


def test_an_example_counts_where_the_model_is_right_on_both_of_its_views(model: nn.Module) -> None:
    indices = torch.arange(COUNT)
    images, labels = training_digits().images(indices), training_digits().labels[:COUNT]
    views = augmix.views(images, SETTINGS, seed=4, epoch=0, indices=indices)
    clean, first, second = (model(each.float() / 255).argmax(1) == labels for each in (images, *views))
    both = int((first & second).sum())
    assert both < min(int(first.sum()), int(second.sum())), "else this would show little"
    found = evaluated(model)
    assert (found.clean_accuracy, found.robust_accuracy) == (int(clean.sum()) / COUNT, both / COUNT)
    assert (found.samples, found.attack) == (COUNT, "both of two AugMix views")
    assert found.clean_interval == interval(int(clean.sum()), COUNT)
    assert found.robust_interval == interval(both, COUNT)


def test_the_views_depend_on_the_seed_and_neither_on_the_batches_nor_on_global_randomness(model: nn.Module) -> None:
    expected = evaluated(model).robust_accuracy
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert evaluated(model, batch_size=17).robust_accuracy == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert len({evaluated(model, seed=seed).robust_accuracy for seed in range(4)}) > 1


def test_the_model_is_evaluated_in_eval_mode_and_left_as_it_was(model: nn.Module) -> None:
    noisy = nn.Sequential(nn.Dropout(0.9), model).train()
    assert evaluated(noisy).clean_accuracy == evaluated(model).clean_accuracy
    assert noisy.training and noisy[0].training


def test_without_a_number_all_examples_are_taken(model: nn.Module) -> None:
    dataset = training_digits()
    assert evaluate_views(model, dataset, SETTINGS).samples == len(dataset)
