"""Hua et al. 2021 on AugMix: BulletTrain that augments boundary examples only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import CLEAN, PROCESSOR, with_seed
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, baseline

NOISE = 2.0  # points, of one seed on 300 images
QUICK: dict[str, Any] = {
    "engine": "sync",
    "data.name": "cifar10",
    "data.download": False,
    "data.limit": 10_000,
    "data.augment": "crop_flip",
    "model.name": "mnist-16-32-100",
    "attack.name": "augmix",
    "objective.name": "augmix",
    "optimizer.name": "adam",
    "optimizer.lr": 0.002,
    "schedule.name": "one_cycle",
    "train.epochs": 8,
    "train.batch_size": 128,
    "trainer.threads": 1,
    "evaluation.steps": 1,
    "evaluation.restarts": 1,
    "evaluation.samples": 1000,
}
FULL: dict[str, Any] = {
    **QUICK,
    "data.limit": None,
    "model.name": "wrn-40-2",
    "model.options": {"centred": True},
    "optimizer.name": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 5e-4,
    "schedule.name": "cosine",
    "train.epochs": 100,
    "evaluation.samples": None,
}
METHODS: dict[str, dict[str, Any]] = {
    "AugMix": {},
    "AugMix without the divergence": {"augmix.weight": 0},
    "AugMix + BulletTrain": {
        "allocator.name": "bullettrain",
        "allocator.boundary_steps": 1,
        "allocator.robust_steps": 0,
        "allocator.outlier_steps": 0,
    },
}
SAMPLES = {"quick": 300, "full": 10_000}


def points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Three networks for each seed, and each under 15 corruptions at 5 severities."""
    found: list[Point] = []
    for seed in seeds:
        for name, settings in METHODS.items():
            base = {key: value for key, value in (QUICK if size == "quick" else FULL).items() if value is not None}
            network = Point("train", {"method": name, "seed": seed}, with_seed({**base, **settings}, seed))
            asked = {"evaluation.samples": SAMPLES[size]}
            found += [network, Point("corrupt", {"method": name, "seed": seed}, asked, needs=(network,))]
    return found


def _corrupted(results: Results, method: str) -> float:
    return 100 * float(results.mean("corrupted_accuracy", "corrupt", method=method))


def _as_good(results: Results) -> tuple[str, bool]:
    whole, spared = (_corrupted(results, method) for method in ("AugMix", "AugMix + BulletTrain"))
    return f"{spared:.1f} beside {whole:.1f}", baseline(whole) - spared <= NOISE


def _divergence(results: Results) -> tuple[str, bool | None]:
    whole, without = (_corrupted(results, method) for method in ("AugMix", "AugMix without the divergence"))
    gain = baseline(whole) - without
    return f"{gain:+.1f} points", None if abs(gain) <= NOISE else gain > 0


def _spared(results: Results) -> tuple[str, bool]:
    speed_up = float(results.mean("theoretical_speedup", "train", method="AugMix + BulletTrain"))
    return f"{speed_up:.2f}", 1.8 - 0.4 <= speed_up <= 1.8 + 0.7


def _by_the_clock(results: Results) -> tuple[str, bool]:
    whole, spared = (
        float(results.mean("training_processor_seconds", "train", method=method))
        for method in ("AugMix", "AugMix + BulletTrain")
    )
    return f"{whole / spared:.2f}", whole / spared >= 1.2


PAPERS = {"AugMix": 88.8, "AugMix without the divergence": 86.9, "AugMix + BulletTrain": 88.8}


def _chart(results: Results) -> dict[str, Any]:
    rows = [
        {"method": each["at"]["method"], "accuracy": 100 * each["figures"]["corrupted_accuracy"], "of": "here"}
        for each in results.of("corrupt")
    ]
    rows += [{"method": row["method"], "accuracy": PAPERS[row["method"]], "of": "the paper"} for row in list(rows)]
    title = "Accuracy under corruptions"
    return figures.bars(rows, "method", "accuracy", "of", title=title, x_title="accuracy, %")


AUGMIX = Study(
    "augmix",
    "Hua et al. 2021",
    "Table 1, AugMix",
    "Need all examples be augmented?",
    {
        "quick": "CIFAR-10, 10,000 training images, the 16-32-100 network, 8 epochs of batches of 128, Adam (one "
        "cycle, peak 0.002); 300 test images under 15 corruptions at 5 severities, made by imagecorruptions.",
        "full": "CIFAR-10, WRN-40-2, 100 epochs of batches of 128, SGD at 0.1 with a cosine; all test images.",
    },
    points,
    tables=(
        Table(
            ("method",),
            (CLEAN, Column("theoretical_speedup", "theoretical speed-up", share=False, digits=2), PROCESSOR),
            title="Training",
        ),
        Table(
            ("method",),
            (Column("corrupted_accuracy", "corrupted"),),
            "corrupt",
            paper={(method,): {"corrupted_accuracy": accuracy} for method, accuracy in PAPERS.items()},
            title="Under corruptions (the paper's on CIFAR-10-C)",
        ),
    ),
    claims=(
        Claim("augmenting boundary examples only costs nothing under corruptions", "88.8 beside 88.8", _as_good),
        Claim("the divergence helps under corruptions", "+1.9", _divergence),
        Claim("it saves passes", "1.8", _spared),
        Claim("and time", "1.7", _by_the_clock),
    ),
    charts={"corrupted": _chart},
)
