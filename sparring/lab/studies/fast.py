"""Wong, Rice, Kolter 2019: one step from a random start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import CLEAN, FGSM_QUICK, PGD, PROCESSOR, WONG, with_seed
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, Value, baseline

PAPER = "Wong, Rice, Kolter 2019"
FGSM_SENTENCE = (
    "MNIST, 38,400 training images, the 16-32-100 network, 3 epochs of batches of 100, ε = 0.3, Adam with a cyclic "
    "rate (peak 0.005), start not clamped to the image"
)
NOISE, MOST_OPEN = 2.0, 15.0  # points
PGD_40 = "PGD-40 (step 0.01, 2 restarts) on 1,000 test images"
Method = tuple[str, dict[str, Any]]


def _starts(size: Size) -> list[Method]:
    """The rows of Table 1; step sizes in parts of ε."""
    epsilon, warmup = (0.3, 0.3) if size == "quick" else (8 / 255, 0.0)  # on MNIST full attacks need the warm-up
    free: dict[str, Any] = {
        "model.precision": "fp32",
        "attack.name": "fgsm",
        "attack.start": "auto",
        "attack.clamp_start": None,
        "attack.step_size": None,
        "attack.warmup": warmup,
    }
    pgd = {
        "attack.name": "pgd",
        "attack.steps": 8,
        "attack.start": "auto",
        "attack.clamp_start": None,
        "attack.warmup": warmup,
    }

    def piecewise(rate: float) -> dict[str, Any]:
        """The paper's rate for these two (appendix A; the milestones are those of its authors' code)."""
        return (
            {}
            if size == "quick"
            else {"schedule.name": "piecewise", "schedule.milestones": [0.5, 0.75], "optimizer.lr": rate}
        )

    return [
        ("FGSM, zero start, α = ε", {"attack.start": "zero", "attack.step_size": epsilon}),
        ("FGSM, previous start, α = ε", {"attack.start": "previous", "attack.step_size": epsilon}),
        ("FGSM, random start, α = ε", {"attack.step_size": epsilon}),
        ("FGSM, random start, α = 1.25 ε", {"attack.step_size": 1.25 * epsilon}),
        ("FGSM, random start, α = 2 ε", {"attack.step_size": 2 * epsilon}),
        (
            "FGSM, zero start, α = ε, GradAlign",
            {
                "attack.start": "zero",
                "attack.step_size": epsilon,
                "attack.warmup": warmup,
                "objective.name": "grad-align",
                "model.precision": "fp32",
            },
        ),
        ("Free, m = 8", {**free, **piecewise(0.05), "train.replays": 8, "train.epochs": 8 if size == "quick" else 400}),
        ("PGD", {**pgd, **piecewise(0.1), "attack.step_size": None, "train.epochs": 3 if size == "quick" else 400}),
    ]


def start_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """The rows of Table 1."""
    full = {**WONG, "engine": "sync", "train.epochs": 30, "optimizer.lr": 0.05}
    base = FGSM_QUICK if size == "quick" else full
    return [
        Point("train", {"method": name, "seed": seed}, with_seed({**base, **settings}, seed))
        for seed in seeds
        for name, settings in _starts(size)
    ]


def _robust(method: str) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", method=method))


def _collapses(method: str) -> Callable[[Results], tuple[str, bool]]:
    """Whether nothing of the robustness is left, though the network is accurate."""

    def measure(results: Results) -> tuple[str, bool]:
        robust, clean = _robust(method)(results), 100 * results.mean("clean_accuracy", method=method)
        return f"{robust:.1f} (clean {clean:.1f})", robust <= 10 and baseline(clean) > 0

    return measure


def _as_good(method: str, other: str, within: float) -> Callable[[Results], tuple[str, bool]]:
    """Whether a method comes within some points of another."""

    def measure(results: Results) -> tuple[str, bool]:
        ours, theirs = _robust(method)(results), _robust(other)(results)
        return f"{ours:.1f} against {theirs:.1f}", ours >= baseline(theirs) - within

    return measure


def _better(method: str, other: str) -> Callable[[Results], tuple[str, bool | None]]:
    """Whether a method is better than another by more than a seed varies."""

    def measure(results: Results) -> tuple[str, bool | None]:
        ours, theirs = _robust(method)(results), _robust(other)(results)
        return f"{ours:.1f} against {theirs:.1f}", None if abs(ours - theirs) <= NOISE else ours > theirs

    return measure


TABLE_1: dict[tuple[Value, ...], dict[str, float]] = {  # on CIFAR-10, ε = 8/255
    (method,): {"clean_accuracy": clean, "robust_accuracy": robust}
    for method, clean, robust in (
        ("FGSM, zero start, α = ε", 81.48, 0.00),
        ("FGSM, previous start, α = ε", 85.60, 42.32),
        ("FGSM, random start, α = ε", 84.38, 43.78),
        ("FGSM, random start, α = 1.25 ε", 83.25, 46.25),
        ("FGSM, random start, α = 2 ε", 85.39, 0.00),
        ("Free, m = 8", 83.80, 46.78),
        ("PGD", 83.04, 44.56),
    )
}


def _start_chart(results: Results) -> dict[str, Any]:
    rows = [
        {"method": each["at"]["method"], "accuracy": 100 * each["figures"]["robust_accuracy"], "of": "PGD"}
        for each in results
    ]
    title = "PGD accuracy by start and step size, a dot for each seed"
    return figures.bars(rows, "method", "accuracy", "of", title=title, x_title="accuracy, %")


STARTS = Study(
    "fgsm-starts",
    PAPER,
    "Table 1",
    "Which start and step size does one-step training need?",
    {
        "quick": f"{FGSM_SENTENCE}; {PGD_40}. PGD, Free and GradAlign: ε warmed up over 30 "
        "% of the steps, without which they stay at chance. No guard against overfitting.",
        "full": "CIFAR-10, PreActResNet-18, ε = 8/255, 30 epochs (Free and PGD 400); PGD-50 with 10 restarts.",
    },
    start_points,
    tables=(Table(("method",), (CLEAN, PGD, PROCESSOR), paper=TABLE_1, compared=False),),
    claims=(
        Claim("a zero start collapses", "0.00", _collapses("FGSM, zero start, α = ε")),
        Claim("α = 2 ε collapses", "0.00", _collapses("FGSM, random start, α = 2 ε")),
        Claim(
            "a random start is about as good as one from the batch before",
            "43.8 against 42.3",
            _as_good("FGSM, random start, α = ε", "FGSM, previous start, α = ε", 3),
        ),
        Claim(
            "α = 1.25 ε is better than ε",
            "46.3 against 43.8",
            _better("FGSM, random start, α = 1.25 ε", "FGSM, random start, α = ε"),
        ),
        Claim("one step is as good as PGD", "46.3 against 44.6", _as_good("FGSM, random start, α = 1.25 ε", "PGD", 2)),
    ),
    charts={"accuracy": _start_chart},
)


def mnist_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """FGSM from a random start and PGD on MNIST, attacked at both radii and verified at 0.1."""
    of_size = {"attack.steps": 8} if size == "quick" else {"attack.steps": 40, "attack.step_size": 0.01}
    pgd = {"attack.name": "pgd", "attack.clamp_start": None, **of_size}
    epochs = 3 if size == "quick" else 10
    samples, timeout_s = (100, 15.0) if size == "quick" else (10_000, 120.0)
    whole: dict[str, Any] = {} if size == "quick" else {"data.limit": None, "evaluation.samples": None}
    methods: dict[str, dict[str, Any]] = {"FGSM": {}, "PGD": {**pgd, "attack.warmup": 0.3}}
    found: list[Point] = []
    for seed in seeds:
        for name, settings in methods.items():
            base = {**FGSM_QUICK, "train.epochs": epochs, **whole, **settings}
            network = Point("train", {"method": name, "seed": seed}, with_seed(base, seed))
            found.append(network)
            for epsilon in (0.1, 0.3):
                attack: dict[str, Any] = {
                    "evaluation.steps": 50,
                    "evaluation.step_size": 0.01,
                    "evaluation.restarts": 10,
                    "attack.epsilon": epsilon,
                }
                found.append(Point("evaluate", {**network.at, "epsilon": epsilon}, attack, needs=(network,)))
            proof = {"epsilon": 0.1, "samples": samples, "timeout_s": timeout_s}
            found.append(Point("verify", dict(network.at), options=proof, needs=(network,)))
    return found


def _verified(results: Results) -> tuple[str, bool | None]:
    low = {name: 100 * results.mean("verified_accuracy", "verify", method=name) for name in ("FGSM", "PGD")}
    high = {name: 100 * results.mean("upper_accuracy", "verify", method=name) for name in ("FGSM", "PGD")}
    text = "; ".join(f"{name} {low[name]:.1f} to {high[name]:.1f}" for name in low)
    papers = {"FGSM": 96.8, "PGD": 96.7}
    if max(high[name] - low[name] for name in low) > MOST_OPEN:
        return f"{text}: too many were not decided", None
    return text, all(low[name] - 2 <= papers[name] <= high[name] + 2 for name in low)


def _fgsm_near_pgd(results: Results) -> tuple[str, bool]:
    ours = {
        name: 100 * results.mean("robust_accuracy", "evaluate", method=name, epsilon=0.3) for name in ("FGSM", "PGD")
    }
    return f"{ours['FGSM']:.1f} and {ours['PGD']:.1f}", abs(ours["FGSM"] - baseline(ours["PGD"])) <= 3


def _mnist_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "method": record["at"]["method"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "of": f"PGD-50-10, ε = {record['at']['epsilon']:g}",
        }
        for record in results.of("evaluate")
    ]
    rows += [
        {
            "method": record["at"]["method"],
            "accuracy": 100 * record["figures"]["verified_accuracy"],
            "of": "verified, ε = 0.1",
        }
        for record in results.of("verify")
    ]
    title = "Attacked and verified accuracy, a dot for each seed"
    return figures.bars(rows, "method", "accuracy", "of", title=title, x_title="accuracy, %")


MNIST = Study(
    "mnist-verified",
    PAPER,
    "Table 2",
    "Is a network trained by one step really robust: against PGD, and by proof?",
    {
        "quick": f"{FGSM_SENTENCE}; PGD: κ = 8, ε warmed up over 30 %. PGD-50 with 10 restarts on 1,000 test images; "
        "100 test images verified, 15 s each.",
        "full": "MNIST, the 16-32-100 network, 10 epochs, PGD with κ = 40 and steps of 0.01, ε warmed "
        "up over 30 %; all 10,000 test images.",
    },
    mnist_points,
    tables=(
        Table(
            ("method", "epsilon"),
            (CLEAN, Column("robust_accuracy", "PGD-50-10")),
            "evaluate",
            {
                ("PGD", 0.1): {"clean_accuracy": 99.20, "robust_accuracy": 97.66},
                ("PGD", 0.3): {"clean_accuracy": 99.20, "robust_accuracy": 89.90},
                ("FGSM", 0.1): {"clean_accuracy": 99.20, "robust_accuracy": 97.53},
                ("FGSM", 0.3): {"clean_accuracy": 99.20, "robust_accuracy": 88.77},
            },
            "attacked",
        ),
        Table(
            ("method",),
            (Column("verified_accuracy", "verified, ε = 0.1"), Column("upper_accuracy", "at most")),
            "verify",
            {("PGD",): {"verified_accuracy": 96.7}, ("FGSM",): {"verified_accuracy": 96.8}},
            "verified",
        ),
    ),
    claims=(
        Claim("FGSM is about as robust as PGD at ε = 0.3", "88.8 and 89.9", _fgsm_near_pgd),
        Claim("both are verified to about the same share at ε = 0.1", "FGSM 96.8, PGD 96.7", _verified),
    ),
    charts={"accuracy": _mnist_chart},
)

EPOCHS: dict[Size, tuple[int, ...]] = {"quick": (1, 2, 4, 8), "full": (5, 10, 15, 30, 44, 88)}
TARGET = {"quick": 0.8, "full": 0.45}


def time_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Each method with a cyclic rate over a number of epochs (Fig. 2)."""
    base = FGSM_QUICK if size == "quick" else {**WONG, "engine": "sync"}
    plain = {"attack.clamp_start": None, "attack.step_size": None}
    guarded = {"guard.overfitting": "rollback"}
    own = {} if size == "quick" else {"optimizer.lr": 0.04}
    warmup = {"attack.warmup": 0.3 if size == "quick" else 0.0}
    free = {"model.precision": "fp32", "attack.name": "fgsm", "train.replays": 8, **plain, **warmup, **own}
    methods: dict[str, dict[str, Any]] = {
        "FGSM": guarded,
        "Free, m = 8": free,
        "PGD": {"attack.name": "pgd", "attack.steps": 8, **warmup, **plain},
    }
    return [
        Point(
            "train",
            {"method": name, "epochs": epochs, "seed": seed},
            with_seed({**base, **settings, "train.epochs": epochs}, seed),
        )
        for seed in seeds
        for name, settings in methods.items()
        for epochs in EPOCHS[size]
        if not (name == "Free, m = 8" and epochs < 8) and not (size == "quick" and name == "PGD" and epochs > 4)
    ]


def seconds_to(results: Results, method: str, target: float) -> tuple[int, float]:
    """The fewest epochs that reach a mean robust accuracy, and their seconds of processor time.

    Raises:
        LookupError: none does.
    """
    for epochs in sorted(results.of("train", method=method).coordinates("epochs")):
        if results.mean("robust_accuracy", method=method, epochs=epochs) >= target:
            return epochs, results.mean("training_processor_seconds", method=method, epochs=epochs)
    raise LookupError(f"{method} does not reach {100 * target:.0f} %")


def _fastest(results: Results) -> tuple[str, bool]:
    target = TARGET["quick"] if max(results.coordinates("epochs")) <= max(EPOCHS["quick"]) else TARGET["full"]
    texts, times = [], {}
    for method in ("FGSM", "Free, m = 8", "PGD"):
        try:
            epochs, seconds = seconds_to(results, method, target)
        except LookupError:
            texts.append(f"{method}: not reached")
            continue
        times[method] = seconds
        texts.append(f"{method}: {epochs} epochs, {seconds:.0f} s")
    if "FGSM" not in times:
        return f"to {100 * target:.0f} %: {'; '.join(texts)}", False
    return f"to {100 * target:.0f} %: {'; '.join(texts)}", times["FGSM"] == min(times.values())


def _epoch_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "seconds": record["figures"]["training_processor_seconds"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "method": record["at"]["method"],
        }
        for record in results.of("train")
    ]
    title = "Robust accuracy by time of training, each point a run with its own schedule"
    return figures.lines(rows, "seconds", "accuracy", "method", title=title, x_title="processor seconds", scale="log")


TIME = Study(
    "fast-time",
    PAPER,
    "Table 3 and Fig. 2",
    "Which method reaches a robust accuracy first?",
    {
        "quick": f"{FGSM_SENTENCE.replace('3 epochs', '1 to 8 epochs')}; PGD: κ = 8; PGD "
        f"and Free: ε warmed up over 30 % of the steps; FGSM: guard against overfitting. {PGD_40}; target 80 %.",
        "full": "CIFAR-10, PreActResNet-18, ε = 8/255, 5 to 88 epochs; PGD-50 with 10 restarts; target 45 %.",
    },
    time_points,
    tables=(Table(("method", "epochs"), (CLEAN, PGD, PROCESSOR)),),
    claims=(
        Claim("FGSM reaches the target first", "to 45 %: FGSM 15 epochs, 6 min; Free 20 min; PGD 23 min", _fastest),
    ),
    charts={"time": _epoch_chart},
)
