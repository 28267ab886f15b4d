"""The settings that studies share: short runs on MNIST for a processor, and the papers' own for GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparring.lab.study import Column, Size

Settings = dict[str, Any]
CLEAN, PGD = Column("clean_accuracy", "clean"), Column("robust_accuracy", "PGD")
PGD_40 = Column("robust_accuracy", "PGD-40")
PROCESSOR = Column("training_processor_seconds", "processor, s", share=False, digits=0)
BHAT = "Bhat, Tsipras, Mądry 2018"

MNIST_QUICK: Settings = {
    "engine": "sync",
    "data.name": "mnist",
    "data.download": False,
    "data.limit": 38_400,
    "model.name": "mnist-16-32-100",
    "attack.epsilon": 0.3,
    "attack.steps": 8,
    "attack.warmup": 0.3,
    "optimizer.name": "adam",
    "optimizer.lr": 0.002,
    "schedule.name": "one_cycle",
    "schedule.peak_at": 0.3,
    "train.epochs": 2,
    "train.batch_size": 128,
    "trainer.threads": 1,
    "evaluation.steps": 40,
    "evaluation.step_size": 0.01,
    "evaluation.restarts": 2,
    "evaluation.samples": 1000,
}
QUICK_SENTENCE = (
    "MNIST, 38,400 training images, the 16-32-100 network, 600 steps of 128, κ = 8, ε = 0.3 warmed up over 30 % of the "
    "steps, Adam with a one-cycle rate (peak 0.002); PGD-40 (step 0.01, 2 restarts) on 1,000 test images"
)
FGSM_QUICK: Settings = {
    **MNIST_QUICK,
    "attack.name": "fgsm-rs",
    "attack.warmup": 0.0,
    "attack.clamp_start": False,
    "optimizer.lr": 0.005,
    "schedule.name": "cyclic",
    "schedule.peak_at": 0.4,
    "train.batch_size": 100,
    "train.epochs": 3,
}
MADRY: Settings = {
    "engine": "sync",
    "data.name": "mnist",
    "model.name": "mnist-32-64-1024",
    "attack.epsilon": 0.3,
    "attack.steps": 8,
    "attack.warmup": 0.0,
    "optimizer.name": "adam",
    "optimizer.lr": 1e-4,
    "schedule.name": "constant",
    "train.epochs": 128,
    "train.batch_size": 128,
    "evaluation.steps": 40,
    "evaluation.step_size": 0.01,
    "evaluation.restarts": 2,
}
MADRY_SENTENCE = (
    "MNIST, the 32-64-1024 network, 60,000 steps of 128, κ = 8, ε = 0.3, Adam at 0.0001; PGD-40 (step 0.01, 2 "
    "restarts) on all 10,000 test images"
)
WATCHED: Settings = {"engine": "simulated", "staleness.gap_every": 50}
GAP = {"series": ["fresh_minus_stale", "train_robust_accuracy"]}  # what such a run keeps
CIFAR_SGD: Settings = {
    "engine": "sync",
    "data.name": "cifar10",
    "data.augment": "crop_flip",
    "attack.epsilon": 0.031,
    "attack.steps": 10,
    "attack.step_size": 0.007,
    "attack.warmup": 0.0,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "schedule.name": "piecewise",
    "schedule.milestones": [0.9737],
    "train.epochs": 76,
    "train.batch_size": 128,
    "model.name": "wrn-34-10",
    "evaluation.steps": 20,
    "evaluation.step_size": 0.003,
    "evaluation.restarts": 1,
}
WONG: Settings = {
    "data.name": "cifar10",
    "data.augment": "crop_flip",
    "model.name": "preact-resnet-18-wong",
    "model.precision": "fp16",
    "model.channels_last": True,
    "attack.name": "fgsm-rs",
    "attack.epsilon": 8 / 255,
    "attack.warmup": 0.0,
    "attack.clamp_start": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.21,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 5e-4,
    "schedule.name": "cyclic",
    "schedule.peak_at": 0.4,
    "train.epochs": 15,
    "train.batch_size": 128,
    "evaluation.steps": 50,
    "evaluation.step_size": 2 / 255,
    "evaluation.restarts": 10,
}


def with_seed(base: Mapping[str, Any], seed: int, **changes: Any) -> Settings:
    """The settings with a seed and changes; in their names two underscores stand for the dot."""
    return {**base, "train.seed": seed, **{name.replace("__", "."): value for name, value in changes.items()}}


def by_size(size: Size, quick: Settings, full: Settings) -> Settings:
    """The settings of a size."""
    return quick if size == "quick" else full
