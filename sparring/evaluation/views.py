"""Evaluate a model on AugMix views of images that it was not trained on."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from sparring.attacks import frozen
from sparring.config import AugmixSettings
from sparring.data import Dataset, Sample, augmix, scaled
from sparring.data.sampling import Draw
from sparring.evaluation.outcomes import clean_outcomes, joined
from sparring.evaluation.robustness import Evaluation, evaluation_of
from sparring.machine.devices import device_of
from sparring.models.forward import plain


def evaluate_views(
    model: nn.Module,
    dataset: Dataset,
    settings: AugmixSettings,
    *,
    samples: int | None = None,
    draw: Draw = "stratified",
    batch_size: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Accuracy on `samples` images (see `Sample`), and as robust accuracy the share with both views correct.

    The views are always those of epoch 0, so that evaluations can be compared.
    """
    began, model, device = time.perf_counter(), plain(model), device_of(model)
    sample, parts = Sample(dataset, samples, draw), []
    with frozen(model):
        for indices in torch.split(sample.indices, batch_size):
            images, labels = dataset.images(indices), dataset.labels[indices].to(device)
            views = augmix.views(images, settings, seed=seed, epoch=0, indices=indices)
            seen = [clean_outcomes(model, scaled(each).to(device), labels) for each in (images, *views)]
            non_finite = torch.stack([each.non_finite_logits for each in seen]).any(0)
            both = seen[1].clean & seen[2].clean
            parts.append(
                replace(seen[0], robust=both, non_finite_logits=non_finite, confidence=torch.ones(len(labels))).cpu()
            )
    return evaluation_of(joined(parts), sample, "both of two AugMix views", time.perf_counter() - began)
