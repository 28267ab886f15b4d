"""Evaluate a model on AugMix views of images that it was not trained on."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.config import AugmixSettings
from sparring.data import Dataset, augmix, scaled
from sparring.evaluation.robustness import Evaluation, interval
from sparring.machine.devices import device_of
from sparring.models.forward import plain


def evaluate_views(
    model: nn.Module,
    dataset: Dataset,
    settings: AugmixSettings,
    *,
    samples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Accuracy on the first `samples` images, and as robust accuracy the share with both views correct.

    The views are always those of epoch 0, so that evaluations can be compared.
    """
    began, model = time.perf_counter(), plain(model)
    total = len(dataset) if samples is None else min(samples, len(dataset))
    clean = robust = 0
    with frozen(model), torch.no_grad():
        for indices in torch.split(torch.arange(total), batch_size):
            images, labels = dataset.images(indices), dataset.labels[indices]
            clean += int(_correct(model, images, labels).sum())
            first, second = augmix.views(images, settings, seed=seed, epoch=0, indices=indices)
            robust += int((_correct(model, first, labels) & _correct(model, second, labels)).sum())
    of_clean, of_robust = interval(clean, total), interval(robust, total)
    seconds = time.perf_counter() - began
    return Evaluation(clean / total, robust / total, total, "both of two AugMix views", seconds, of_clean, of_robust)


def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """bool [N], on the CPU."""
    x = scaled(images).to(device_of(model))
    predictions: Tensor = model(x).argmax(1)
    return predictions.cpu() == labels
