"""Kaufmann et al. 2022: dropping training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import CLEAN, FGSM_QUICK, PROCESSOR, WONG, with_seed
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, Value, baseline

PAPER = "Kaufmann et al. 2022"
AUTOATTACK = Column("robust_accuracy", "AutoAttack")
CHANCE = 5.0  # percent, under AutoAttack: nothing was learnt
NOISE, SAME = 5.0, 0.05  # points; share of a figure
MNIST, CIFAR = "MNIST", "CIFAR-10"
STRATEGIES = ("random", "low", "high", "low_high")
SHARES: dict[Size, tuple[float, ...]] = {"quick": (0.2, 0.6), "full": (0.2, 0.4, 0.6, 0.8)}
EPOCHS: dict[Size, tuple[int, ...]] = {"quick": (1,), "full": (1, 3)}
LATER_SHARES = (0.7, 0.9)  # Fig. 1: 30 and 10 % are kept
LATER: dict[Size, dict[str, tuple[int, ...]]] = {
    "quick": {MNIST: (1, 2, 3), CIFAR: (1, 3, 5)},
    "full": {MNIST: (1, 3, 5, 7), CIFAR: (1, 3, 6, 9, 12)},
}
QUICK_CIFAR: dict[str, Any] = {
    **{name: value for name, value in WONG.items() if name != "optimizer.momentum"},
    "engine": "sync",
    "data.download": False,
    "data.limit": 10_000,
    "model.name": "cifar10-32-64-128",
    "model.precision": "fp32",
    "model.channels_last": False,
    "data.augment": "none",
    "optimizer.name": "adam",
    "optimizer.lr": 0.003,
    "optimizer.weight_decay": 0.0,
    "train.epochs": 8,
    "trainer.threads": 1,
    "evaluation.samples": 1000,
    "evaluation.restarts": 1,
}


def _data(size: Size) -> dict[str, dict[str, Any]]:
    """The data sets with the settings of their runs."""
    guarded = {"guard.overfitting": "rollback"}
    if size == "quick":
        return {MNIST: {**FGSM_QUICK, **guarded, "train.epochs": 4}, CIFAR: {**QUICK_CIFAR, **guarded}}
    whole = {"data.limit": None, "evaluation.samples": None, "train.epochs": 10}
    return {MNIST: {**FGSM_QUICK, **guarded, **whole}, CIFAR: {**WONG, "engine": "sync", **guarded}}


def strategy_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """All data, each strategy and share, and at random also later in the run; judged by AutoAttack."""
    rows: list[tuple[str, float, int]] = [("none", 0.0, 0)]
    rows += [(name, share, epoch) for name in STRATEGIES for share in SHARES[size] for epoch in EPOCHS[size]]
    found: list[Point] = []
    for (data, base), seed in product(_data(size).items(), seeds):
        later = [("random", share, epoch) for share in LATER_SHARES for epoch in LATER[size][data]]
        for name, share, epoch in rows + later:
            settings = with_seed(base, seed)
            if name != "none":
                settings |= {"pruning.name": name, "pruning.share": share, "pruning.epoch": epoch}
            at: dict[str, Value] = {"data": data, "strategy": name, "dropped": share, "epoch": epoch, "seed": seed}
            network = Point("train", at, settings)
            judge = {"evaluation.attack": "autoattack", "evaluation.samples": 200 if size == "quick" else 1000}
            found += [network, Point("evaluate", at, judge, needs=(network,))]
    return found


def _judged(**at: Any) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", "evaluate", **at))


def _beyond_noise(more: float, less: float) -> bool | None:
    """Whether one accuracy is above another by more than one seed and so few images vary; None: it cannot be said."""
    return None if abs(more - less) <= NOISE else more > less


def _loss_beats_random(results: Results) -> tuple[str, bool | None]:
    ours, random = (_judged(data=MNIST, strategy=name, dropped=0.6)(results) for name in ("low_high", "random"))
    whole = baseline(_judged(data=MNIST, strategy="none")(results))
    return f"{ours:.1f}, random {random:.1f}, all data {whole:.1f}", _beyond_noise(ours, random)


def _low_hurts(results: Results) -> tuple[str, bool | None]:
    low, random = (_judged(data=CIFAR, strategy=name, dropped=0.6)(results) for name in ("low", "random"))
    return f"{low:.1f} against {random:.1f} (random), 60 % dropped", _beyond_noise(random, low)


def _random_beats_loss(results: Results) -> tuple[str, bool | None]:
    loss, random = (_judged(data=CIFAR, strategy=name, dropped=0.6)(results) for name in ("low_high", "random"))
    whole = baseline(_judged(data=CIFAR, strategy="none")(results), CHANCE)
    return f"{loss:.1f} and {random:.1f} (all data {whole:.1f})", _beyond_noise(random, loss)


def _later(results: Results) -> tuple[str, bool | None]:
    """What the latest pruning at random has more than the earliest, at each share and on each data set."""
    gains: list[float] = []
    for data in results.coordinates("data"):
        for share in LATER_SHARES:
            found = results.of("evaluate", data=data, strategy="random", dropped=share)
            epochs = sorted(found.coordinates("epoch"))
            first, last = (100 * found.mean("robust_accuracy", epoch=epoch) for epoch in (epochs[0], epochs[-1]))
            gains.append(last - first)
    text = f"{min(gains):+.1f} to {max(gains):+.1f} points from the earliest to the latest"
    return text, None if min(gains) < -NOISE else max(gains) <= NOISE


PAPERS = (  # Table 1: accuracy, AutoAttack
    (MNIST, "none", 0.0, 97.67, 70.05),
    (MNIST, "low_high", 0.6, 94.60, 70.11),
    (MNIST, "low_high", 0.2, 94.10, 67.43),
    (MNIST, "random", 0.6, 98.01, 65.50),
    (MNIST, "random", 0.2, 97.78, 60.77),
    (CIFAR, "none", 0.0, 79.68, 44.59),
    (CIFAR, "low_high", 0.6, 50.64, 25.32),
    (CIFAR, "low_high", 0.2, 70.71, 37.84),
    (CIFAR, "random", 0.6, 64.04, 33.54),
    (CIFAR, "random", 0.2, 73.26, 39.63),
)


PAPERS_MINUTES = (  # Table 1
    (MNIST, "none", 0.0, 0.78),
    (MNIST, "low_high", 0.6, 0.51),
    (MNIST, "low_high", 0.2, 0.74),
    (MNIST, "random", 0.6, 0.46),
    (MNIST, "random", 0.2, 0.69),
    (CIFAR, "none", 0.0, 30.16),
    (CIFAR, "low_high", 0.6, 16.57),
    (CIFAR, "low_high", 0.2, 26.43),
    (CIFAR, "random", 0.6, 15.96),
    (CIFAR, "random", 0.2, 25.58),
)


def _linear(results: Results) -> tuple[str, bool]:
    """Seconds with 60 % dropped at random, over those of all data, beside the share of examples."""
    records = list(results.of("train", data=MNIST, strategy="random", dropped=0.6))
    if not records:
        raise LookupError("random pruning was not run")
    part = results.mean("training_processor_seconds", "train", data=MNIST, strategy="random", dropped=0.6)
    whole = results.mean("training_processor_seconds", "train", data=MNIST, strategy="none")
    epochs, epoch = records[0]["settings"]["train.epochs"], records[0]["at"]["epoch"]
    expected = (epoch + (epochs - epoch) * 0.4) / epochs
    return f"{part / whole:.2f} of the time with {expected:.2f} of the examples", abs(part / whole - expected) <= 0.1


def _by_share(data: str, top: float) -> Callable[[Results], dict[str, Any]]:
    """Figs. 2 to 4 and 7: AutoAttack accuracy of each strategy by the share of the data kept after the first epoch."""

    def chart(results: Results) -> dict[str, Any]:
        rows = [
            {
                "kept": round(100 * (1 - record["at"]["dropped"])),
                "accuracy": 100 * record["figures"]["robust_accuracy"],
                "strategy": record["at"]["strategy"],
            }
            for record in results.of("evaluate", data=data, epoch=1)
        ]
        whole = [100 * value for value in results.values("robust_accuracy", "evaluate", data=data, strategy="none")]
        rows += [{"kept": 100, "accuracy": value, "strategy": name} for value in whole for name in STRATEGIES]
        title = f"AutoAttack accuracy by share of {data} kept after one epoch"
        return figures.lines(rows, "kept", "accuracy", "strategy", title=title, x_title="data kept, %", top=top)

    return chart


def _by_epoch(results: Results) -> dict[str, Any]:
    """Fig. 1: AutoAttack accuracy by the epoch at which data are dropped at random."""
    rows = [
        {
            "epoch": record["at"]["epoch"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "data": f"{record['at']['data']}, {round(100 * (1 - record['at']['dropped']))} % kept",
        }
        for share in LATER_SHARES
        for record in results.of("evaluate", strategy="random", dropped=share)
    ]
    title = "AutoAttack accuracy by the epoch of the pruning, at random"
    return figures.lines(rows, "epoch", "accuracy", "data", title=title, x_title="pruned after epoch")


def _by_time(results: Results) -> dict[str, Any]:
    """Fig. 5: processor seconds of training by the share of the data kept."""
    rows = [
        {
            "kept": round(100 * (1 - record["at"]["dropped"])),
            "seconds": record["figures"]["training_processor_seconds"],
            "data": record["at"]["data"],
        }
        for record in results.of("train")
        if record["at"]["strategy"] in ("none", "random") and record["at"]["epoch"] <= 1
    ]
    title = "Time of training by share of the data kept after one epoch, at random"
    return figures.lines(
        rows, "kept", "seconds", "data", title=title, x_title="data kept, %", y_title="processor, s", top=None
    )


PRUNING = Study(
    "pruning",
    PAPER,
    "Figs. 1 to 5 and 7, Table 1",
    "Can training data be dropped, and which?",
    {
        "quick": "MNIST, 38,400 training images, the 16-32-100 network, 4 epochs of batches of 100, FGSM from a random "
        "start, ε = 0.3, Adam with a cyclic rate (peak 0.005); CIFAR-10, 10,000 training images, the 32-64-128 "
        "network, 8 epochs of batches of 128, ε = 8/255, Adam (peak 0.003); pruned after the epoch named; AutoAttack "
        "on 200 test images.",
        "full": "MNIST as in the quick size, but all images and 10 epochs; CIFAR-10, PreActResNet-18, 15 epochs, FGSM "
        "from a random start, ε = 8/255; pruned after 1 and 3 epochs; AutoAttack on 1,000 images.",
    },
    strategy_points,
    tables=(
        Table(
            ("data", "strategy", "dropped", "epoch"),
            (CLEAN, AUTOATTACK),
            "evaluate",
            {
                (data, strategy, dropped, epoch): {"clean_accuracy": clean, "robust_accuracy": robust}
                for data, strategy, dropped, clean, robust in PAPERS
                for epoch in ((0,) if strategy == "none" else (1, 3))
            },
        ),
        Table(
            ("data", "strategy", "dropped", "epoch"),
            (PROCESSOR,),
            paper={
                (data, strategy, dropped, 0 if strategy == "none" else 1): {"training_processor_seconds": 60 * minutes}
                for data, strategy, dropped, minutes in PAPERS_MINUTES
            },
            title="Time (the paper's in seconds, too, on a GPU)",
            compared=False,
        ),
    ),
    claims=(
        Claim(
            "low and high losses dropped (60 %): better than random on MNIST",
            "70.1, random 65.5, all data 70.1",
            _loss_beats_random,
        ),
        Claim("low and high losses dropped (60 %): worse than random on CIFAR-10", "25.3 and 33.5", _random_beats_loss),
        Claim("dropping low losses hurts most (CIFAR-10)", "strongly below random", _low_hurts),
        Claim("dropping later gains little", "no significant improvement", _later),
        Claim("time falls linearly with the data", "16.0 min of 30.2 with 40 % of the data", _linear),
    ),
    charts={
        "accuracy": _by_share(MNIST, 100),
        "accuracy-cifar10": _by_share(CIFAR, 40),
        "epoch": _by_epoch,
        "time": _by_time,
    },
)


def density_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Density and separation of MNIST, pruned MNIST, Fashion-MNIST where it is, and CIFAR-10."""
    samples = {"samples": 4000 if size == "quick" else 20_000, "shown": 400}
    settings = with_seed(FGSM_QUICK, 0, pruning__name="low_high", pruning__share=0.6, pruning__epoch=1)
    pruned = Point("train", {"data": "pruned MNIST"}, {**settings, "guard.overfitting": "rollback", "train.epochs": 4})
    sets = {"MNIST": "mnist", "CIFAR-10": "cifar10"}
    return [
        pruned,
        Point("embed", {"data": "pruned MNIST"}, options=samples, needs=(pruned,)),
        *(
            Point("embed", {"data": title}, {"data.name": name, "data.download": False}, samples)
            for title, name in sets.items()
        ),
    ]


def _rank(figure: str, first: str, second: str) -> Callable[[Results], tuple[str, bool | None]]:
    def measure(results: Results) -> tuple[str, bool | None]:
        more, less = (results.mean(figure, "embed", data=name) for name in (first, second))
        return f"{more:.3g} and {less:.3g}", None if abs(more / less - 1) <= SAME else more > less

    return measure


def _clouds(results: Results) -> dict[str, Any]:
    """Fig. 8."""
    rows = [
        {"x": x, "y": y, "class": label, "data": record["at"]["data"]}
        for record in results.of("embed")
        for x, y, label in record["figures"]["shown"]
    ]
    title = "t-SNE of 50 principal components, 400 images of each"
    return figures.clouds(rows, "x", "y", "class", "data", title=title)


DENSITY = Study(
    "pruning-density",
    PAPER,
    "Table 2 and Fig. 8",
    "Do density and separation of the classes predict whether pruning by loss pays?",
    {
        "quick": "4,000 images of each set; t-SNE of 50 principal components, each axis scaled to variance 1. The "
        "paper's formula for the density is that of a centre, so figures differ in scale; only orders are compared.",
        "full": "20,000 images of each set; otherwise as in the quick size.",
    },
    density_points,
    tables=(
        Table(
            ("data",),
            (
                Column("density", "density", share=False),
                Column("separation", "separation", share=False, digits=3),
                Column("samples", "images", share=False, digits=0),
            ),
            "embed",
        ),
    ),
    claims=(
        Claim("MNIST is denser than CIFAR-10", "1015.6 and 96.7", _rank("density", "MNIST", "CIFAR-10")),
        Claim(
            "MNIST's classes are further apart than CIFAR-10's",
            "0.77 and 0.36",
            _rank("separation", "MNIST", "CIFAR-10"),
        ),
        Claim("pruning makes MNIST less dense", "1015.6 and 222.3", _rank("density", "MNIST", "pruned MNIST")),
        Claim("pruning moves MNIST's classes apart", "1.49 and 0.77", _rank("separation", "pruned MNIST", "MNIST")),
    ),
    charts={"clouds": _clouds},
)
