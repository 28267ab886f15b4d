"""Wong, Rice, Kolter 2019, on ImageNet: training images that grow in phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparring.config import ScheduleSettings
from sparring.lab import figures
from sparring.lab.results import Record, Results
from sparring.lab.studies.fast import PAPER
from sparring.lab.studies.settings import CLEAN, PROCESSOR, Settings, with_seed
from sparring.lab.study import UNMEASURED, Claim, Column, Point, Size, Study, Table, Value, baseline
from sparring.trainer.schedules import learning_rate

EPOCHS = 15
ENDS = (0.4, 0.8, 1.0)  # of the phases: 6, 6 and 3 of 15 epochs
FGSM, WHOLE, FREE = "FGSM, phases", "FGSM, whole images", "Free, m = 4"
RADII = {"2/255": 2 / 255, "4/255": 4 / 255}
NEAR = 3.0  # points
# The rate of the authors' code: up in the first epoch, then down to a tenth by the end of each phase.
FALLING: Settings = {
    "schedule.name": "linear",
    "schedule.options": {"points": [[0, 0], [1 / EPOCHS, 1], [ENDS[0], 0.1], [ENDS[1], 0.01], [1, 0.001]]},
}
QUICK: Settings = {
    "data.name": "folder:cifar10",
    "data.limit": 10_000,
    "data.size": 32,
    "model.name": "cifar10-32-64-128",
    "trainer.threads": 1,
    "evaluation.samples": 1000,
}
FULL: Settings = {
    "data.name": "folder:imagenet",
    "data.size": 288,
    "data.centre_share": 0.77,
    "model.name": "resnet-50",
    "model.channels_last": True,
    "model.precision": "fp16",
}
SIZES: dict[Size, tuple[int, int]] = {"quick": (16, 24), "full": (128, 224)}  # pixels, of the phases but the last


def phase_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """One step with growing and with whole images, and Free, at both radii; judged with one and with ten restarts."""
    base = {
        **(QUICK if size == "quick" else FULL),
        "engine": "sync",
        "data.augment": "resized_crop_flip",
        "attack.warmup": 0.0,
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.lr": 0.2,
        "optimizer.weight_decay": 1e-4,
        "optimizer.decay_norm": False,
        "train.batch_size": 128,
        "evaluation.steps": 50,
        "evaluation.step_size": 1 / 255,
        "evaluation.restarts": 1,
    }
    one_step = {"attack.name": "fgsm-rs", "attack.clamp_start": True, "train.epochs": EPOCHS, **FALLING}
    growing = [{"until": end, "size": pixels} for end, pixels in zip(ENDS, SIZES[size], strict=False)]
    methods: dict[str, Settings] = {
        FGSM: {**one_step, "data.phases": growing},
        WHOLE: one_step,
        FREE: {
            "attack.name": "fgsm",
            "train.replays": 4,
            "train.epochs": 92,
            "model.precision": "fp32",
            "schedule.name": "piecewise",
            "schedule.milestones": [1 / 3, 2 / 3],
            "optimizer.lr": 0.1,
        },
    }
    found: list[Point] = []
    for seed in seeds:
        for radius, epsilon in RADII.items():
            for name, settings in methods.items():
                at: dict[str, Value] = {"method": name, "epsilon": radius, "seed": seed}
                of_run = with_seed({**base, **settings, "attack.epsilon": epsilon}, seed)
                network = Point("train", at, of_run, {"series": ["seconds"]})
                found += [network, Point("evaluate", at, {"evaluation.restarts": 10}, needs=(network,))]
    return found


def seconds_of_an_epoch(record: Record) -> list[float]:
    """Seconds that an epoch took in each phase of a run."""
    series, ends = record["figures"]["series"], np.array((0.0, *ENDS))
    at_end = np.interp(ends * record["figures"]["steps"], [0, *series["step"]], [0, *series["seconds"]])
    return [float(value) for value in np.diff(at_end) / np.diff(ends * EPOCHS)]


def _cheaper_when_small(results: Results) -> tuple[str, bool]:
    """Time of an epoch in each phase, in parts of the last one's."""
    of_each = [seconds_of_an_epoch(record) for record in results.of("train", method=FGSM)]
    if not of_each:
        raise LookupError(f"{FGSM} was not run")
    first, second, last = np.mean(of_each, axis=0)
    return f"{first / last:.2f}, {second / last:.2f} and 1", bool(first < second < last)


def _robust(radius: str, method: str) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", "evaluate", method=method, epsilon=radius))


def _as_robust(radius: str, other: str) -> Callable[[Results], tuple[str, bool]]:
    """Whether one step in phases comes near another method."""

    def measure(results: Results) -> tuple[str, bool]:
        ours, theirs = _robust(radius, FGSM)(results), _robust(radius, other)(results)
        return f"{ours:.1f} and {theirs:.1f}", ours >= baseline(theirs) - NEAR

    return measure


def _share_of_free(results: Results) -> tuple[str, bool]:
    ours, theirs = (results.mean("training_processor_seconds", "train", method=name) for name in (FGSM, FREE))
    return f"{ours / theirs:.2f} of Free's time ({ours:.0f} and {theirs:.0f} s)", ours < theirs


def _restarts_add_little(results: Results) -> tuple[str, bool]:
    """How many points ten restarts take from what one leaves."""
    rows = [{"method": name, "epsilon": radius} for name in (FGSM, FREE) for radius in RADII]
    one = [100 * results.mean("robust_accuracy", "train", **at) for at in rows]
    ten = [100 * results.mean("robust_accuracy", "evaluate", **at) for at in rows]
    lost = max(before - after for before, after in zip(one, ten, strict=True))
    return f"at most {lost:.2f} points", lost <= 1


def _rates(results: Results) -> dict[str, Any]:
    """Fig. 1, from the schedules themselves: nothing has to be run for it."""
    shapes = {
        "CIFAR-10 (cyclic)": ScheduleSettings(name="cyclic", peak_at=0.4),
        "ImageNet (linear, three phases)": ScheduleSettings(name="linear", options=FALLING["schedule.options"]),
    }
    rows = [
        {"epoch": epoch / 10, "rate": learning_rate(shape, 1.0)(epoch / (10 * EPOCHS)), "schedule": name}
        for name, shape in shapes.items()
        for epoch in range(10 * EPOCHS + 1)
    ]
    title = "Learning rates of one-step training, in parts of the peak"
    return figures.lines(
        rows, "epoch", "rate", "schedule", title=title, x_title="epoch", y_title="rate", top=1, points=False
    )


def _time_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "seconds": record["figures"]["training_processor_seconds"],
            "accuracy": _robust(radius, method)(results.of(None, seed=seed)),
            "method": f"{method}, ε = {radius}",
        }
        for record in results.of("train")
        for method, radius, seed in [[record["at"][name] for name in ("method", "epsilon", "seed")]]
    ]
    title = "PGD-50-10 accuracy by time of training, each point a run"
    return figures.scatter(
        rows, "seconds", "accuracy", "method", title=title, x_title="processor seconds", y_title="accuracy, %"
    )


PAPERS = (  # Table 4: standard accuracy, PGD with one and with ten restarts
    (FGSM, "2/255", 60.90, 43.46, 43.43),
    (FREE, "2/255", 64.37, 43.31, 43.28),
    (FGSM, "4/255", 55.45, 30.28, 30.18),
    (FREE, "4/255", 60.42, 31.22, 31.08),
)

PHASES = Study(
    "imagenet-phases",
    PAPER,
    "Tables 4 and 5, Fig. 1",
    "Do images that grow in phases make one-step training of large images cheap?",
    {
        "quick": "10,000 training images of CIFAR-10 as a folder of PNG files, the cifar10-32-64-128 network, 15 "
        "epochs of 16, 24 and 32 pixels (6, 6 and 3 of them), random crops and mirror images, SGD (peak 0.2), no "
        "weight decay on batch norm; Free: 23 passes of 4 replays, whole images; PGD-50 (step 1/255) on 1,000 test "
        "images.",
        "full": "ImageNet, ResNet-50, 15 epochs of 128, 224 and 288 pixels; Free: 23 passes of 4 replays; PGD-50 "
        "(step 1/255) on all validation images.",
    },
    phase_points,
    tables=(
        Table(
            ("method", "epsilon"),
            (CLEAN, Column("robust_accuracy", "PGD-50, one restart"), PROCESSOR),
            paper={
                (method, radius): {"clean_accuracy": clean, "robust_accuracy": one}
                for method, radius, clean, one, _ in PAPERS
            },
            title="one restart, and the time of training",
        ),
        Table(
            ("method", "epsilon"),
            (Column("robust_accuracy", "PGD-50, ten restarts"),),
            "evaluate",
            {(method, radius): {"robust_accuracy": ten} for method, radius, _, _, ten in PAPERS},
            "ten restarts",
        ),
    ),
    claims=(
        Claim("one step in phases is as robust as Free at 2/255", "43.4 and 43.3", _as_robust("2/255", FREE)),
        Claim("one step in phases is as robust as Free at 4/255", "30.2 and 31.1", _as_robust("4/255", FREE)),
        Claim("it takes a fraction of Free's time", "0.28 (14.6 and 52.2 hours)", _share_of_free),
        Claim("an epoch is the cheaper the smaller its images are", "0.20, 0.58 and 1", _cheaper_when_small),
        Claim("ten restarts take no more than one", "at most 0.14 points", _restarts_add_little),
        Claim("phases cost no robustness at 2/255", UNMEASURED, _as_robust("2/255", WHOLE)),
    ),
    charts={"rates": _rates, "time": _time_chart},
)
