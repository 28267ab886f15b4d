"""Hua et al. 2021: which examples need attack steps, and what is saved by giving the others few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Record, Results
from sparring.lab.studies.settings import (
    CIFAR_SGD,
    CLEAN,
    MADRY,
    MNIST_QUICK,
    PGD,
    PROCESSOR,
    QUICK_SENTENCE,
    by_size,
    with_seed,
)
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, baseline

PAPER = "Hua et al. 2021"
GRADIENTS = Column("gradients_per_example", "gradients an example", share=False, digits=2)
THEORY = Column("theoretical_speedup", "theoretical speed-up", share=False, digits=2)
CLOCK = Column("clock_speedup", "by the clock", share=False, digits=2)
SHARES = tuple(
    Column(f"{name}_share", title, share=False, digits=2)
    for name, title in (("boundary", "F_B"), ("robust", "F_R"), ("outlier", "F_O"))
)
STEPS = 7
NOISE = 1.5  # points, of one seed on 1,000 images
MOST_SPENT = 0.8  # of the gradients of all steps for all: otherwise nothing is saved
LEVELS: dict[Size, tuple[int, ...]] = {"quick": (0, 3, STEPS), "full": tuple(range(STEPS + 1))}


def step_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """The oracle's classes with N_B, N_R and N_O steps: all combinations where at least one is zero, and 7 for all."""
    base = {**by_size(size, MNIST_QUICK, {**MADRY, "train.epochs": 10}), "attack.steps": STEPS, "engine": "sync"}
    found: list[Point] = []
    for seed in seeds:
        for boundary, robust, outlier in product(LEVELS[size], repeat=3):
            if 0 not in (boundary, robust, outlier) and (boundary, robust, outlier) != (STEPS,) * 3:
                continue
            if robust > boundary > 0:
                continue  # refused: robust examples would cost more than boundary examples
            settings = with_seed(
                base,
                seed,
                allocator__name="oracle",
                allocator__boundary_steps=boundary,
                allocator__robust_steps=robust,
                allocator__outlier_steps=outlier,
            )
            found.append(Point("train", {"N_B": boundary, "N_R": robust, "N_O": outlier, "seed": seed}, settings))
    return found


def _robust(**at: Any) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", **at))


def _all_steps(results: Results) -> float:
    return baseline(_robust(N_B=STEPS, N_R=STEPS, N_O=STEPS)(results))


def _no_boundary(results: Results) -> tuple[str, bool]:
    best = max(100 * value for value in results.values("robust_accuracy", N_B=0))
    return f"at most {best:.1f} with N_B = 0, {_all_steps(results):.1f} with 7 for all", best < _all_steps(results) / 2


def _no_outlier(results: Results) -> tuple[str, bool]:
    without, whole = _robust(N_B=STEPS, N_R=STEPS, N_O=0)(results), _all_steps(results)
    return f"{without:.1f} with N_O = 0, {whole:.1f} with 7 for all", whole - without <= 2


def _no_robust(results: Results) -> tuple[str, bool | None]:
    without, whole = _robust(N_B=STEPS, N_R=0, N_O=STEPS)(results), _all_steps(results)
    return f"{without:.1f} with N_R = 0, {whole:.1f} with 7 for all", None if abs(
        whole - without
    ) <= NOISE else 0 < whole - without <= 4


def _step_chart(results: Results) -> dict[str, Any]:
    """Fig. 2: accuracy by the steps of one class, the other two having all."""
    rows = [
        {"steps": steps, "accuracy": accuracy, "class": f"{name} varies, the others have {STEPS}"}
        for name in ("N_B", "N_R", "N_O")
        for steps in LEVELS["full"]
        for others in [{other: STEPS for other in ("N_B", "N_R", "N_O") if other != name}]
        for accuracy in [100 * each["figures"]["robust_accuracy"] for each in results.of(**others, **{name: steps})]
    ]
    title = "PGD-40 accuracy by the attack steps of one class"
    return figures.lines(rows, "steps", "accuracy", "class", title=title, x_title="steps of the class that varies")


WHO_NEEDS_STEPS = Study(
    "who-needs-steps",
    PAPER,
    "Fig. 2",
    "Which examples need attack steps: boundary, robust or outlier ones?",
    {
        "quick": f"{QUICK_SENTENCE.replace('κ = 8', 'κ = 7')}; classes by the oracle, each with 0, 3 or 7 steps.",
        "full": "MNIST, the 32-64-1024 network, 10 epochs; classes by the oracle, each with 0 to 7 steps, but "
        "N_R ≤ N_B where N_B is not 0.",
    },
    step_points,
    tables=(Table(("N_B", "N_R", "N_O"), (CLEAN, PGD)),),
    claims=(
        Claim(
            "without steps on boundary examples there is no robustness", "under 40; 90.6 with 7 for all", _no_boundary
        ),
        Claim("outliers need no steps", "nothing is lost with N_O = 0", _no_outlier),
        Claim("without steps on robust examples a little is lost", "89.2 of 90.6", _no_robust),
    ),
    charts={"accuracy": _step_chart},
)


def class_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """A run with all steps for all examples, and the classes of its training examples on the way."""
    every = 60 if size == "quick" else 600
    base = {**by_size(size, MNIST_QUICK, {**MADRY, "train.epochs": 10}), "engine": "sync"}
    found: list[Point] = []
    for seed in seeds:
        settings = with_seed(base, seed, checkpoint__every_steps=every, checkpoint__keep=50)
        network = Point("train", {"seed": seed}, settings)
        found += [network, Point("classes", {"seed": seed}, options={"samples": 2000}, needs=(network,))]
    return found


def _series(results: Results, name: str) -> list[tuple[int, float]]:
    """Step and value of a class over the run, for the first seed."""
    for record in results.of("classes"):
        series = record["figures"]["series"]
        return [(step, each) for step, each in zip(series["step"], series[name], strict=True) if each is not None]
    raise LookupError("the classes were not looked at")


def _rising(results: Results) -> tuple[str, bool]:
    robust, outlier = _series(results, "robust_share"), _series(results, "outlier_share")
    text = (
        f"robust {100 * robust[0][1]:.0f} to {100 * robust[-1][1]:.0f} %, "
        f"outliers {100 * outlier[0][1]:.0f} to {100 * outlier[-1][1]:.0f} %"
    )
    return text, robust[-1][1] > robust[0][1] and outlier[-1][1] < outlier[0][1]


def _few_boundary(results: Results) -> tuple[str, bool]:
    end = {name: _series(results, f"{name}_share")[-1][1] for name in ("robust", "boundary", "outlier")}
    text = ", ".join(f"{name} {100 * share:.0f} %" for name, share in end.items())
    return f"at the end {text}", end["boundary"] < min(end["robust"], end["outlier"])


def _ordered(results: Results) -> tuple[str, bool]:
    means = {
        name: mean(value for _, value in _series(results, f"{name}_variance"))
        for name in ("outlier", "boundary", "robust")
    }
    text = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    return f"mean signed variance {text}", means["outlier"] < means["boundary"] < means["robust"]


def _class_chart(kind: str, y_title: str, scale: float, title: str) -> Callable[[Results], dict[str, Any]]:
    def chart(results: Results) -> dict[str, Any]:
        rows = [
            {"step": step, "value": scale * value, "class": name}
            for name in ("robust", "boundary", "outlier")
            for step, value in _series(results, f"{name}_{kind}")
        ]
        return figures.lines(
            rows, "step", "value", "class", title=title, x_title="step", y_title=y_title, top=100 if scale > 1 else None
        )

    return chart


CLASSES = Study(
    "classes",
    PAPER,
    "Figs. 3 and 4",
    "How many examples are boundary, robust and outlier ones over a run, and does the signed variance tell them apart?",
    {
        "quick": f"{QUICK_SENTENCE}; classes of 2,000 training examples by ten PGD steps.",
        "full": "MNIST, the 32-64-1024 network, 10 epochs; classes of 2,000 training examples by ten PGD steps.",
    },
    class_points,
    claims=(
        Claim("robust examples become more, outliers fewer", "seen over the epochs", _rising),
        Claim("boundary examples are the smallest part", "few beside the other two", _few_boundary),
        Claim("signed variance: outliers below boundary examples below robust ones", "in this order", _ordered),
    ),
    charts={
        "shares": _class_chart("share", "share, %", 100, "Shares of the classes over the run"),
        "variance": _class_chart("variance", "mean signed variance", 1, "Signed variance of the classes"),
    },
)

FEW = (2, 3, 4, 5)
BULLETTRAIN = {"allocator.name": "bullettrain"}
Method = tuple[str, dict[str, Any]]


def _methods(size: Size) -> list[Method]:
    """Name and settings of every row of Tables 2 to 4."""
    quick = size == "quick"
    steps = 8 if quick else 10
    trades: dict[str, Any] = {"objective.name": "trades", "objective.beta": 1.0 if quick else 6.0}
    mart = {"objective.name": "mart", "objective.beta": 5.0 if quick else 6.0}
    fast = {"attack.name": "fgsm-rs", "attack.clamp_start": not quick, "attack.step_size": None}
    gamma = {"allocator.gamma": 0.65 if quick else 0.8}
    found: list[Method] = [("PGD-AT", {})]
    yopo = {"engine": "sync", "yopo.passes": 2, "yopo.inner_steps": 5, "attack.steps": 10, "attack.step_size": None}
    lenient = {**trades, "objective.beta": trades["objective.beta"] / 6}  # the paper's λ = 1 beside λ = 1/6
    found += [("TRADES, β / 6", lenient), ("TRADES, β / 6 + YOPO-2-5", {**lenient, **yopo})]
    for name, objective in (("TRADES", trades), ("MART", mart)):
        found.append((f"{name} + YOPO-2-5", {**objective, **yopo}))
        found += [(name, objective), (f"{name} + FAST", {**objective, **fast, "attack.start": "uniform"})]
        found += [
            (f"{name} + BT, N_R = {count}", {**objective, **BULLETTRAIN, **gamma, "allocator.robust_steps": count})
            for count in (0, 1, 2)
        ]
    for count in FEW:
        few = {"attack.steps": count, "attack.step_size": None, "attack.start": "uniform"}
        found.append((f"TRADES + FAST, N = {count}", {**trades, **few}))
        some = {"allocator.boundary_steps": min(count + 1, steps), "allocator.gamma": 0.75}
        found.append((f"TRADES + BT, N_B = {count + 1}", {**trades, **BULLETTRAIN, **some}))
    return found


def method_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Every row of Tables 2 to 4."""
    base = by_size(size, MNIST_QUICK, {**CIFAR_SGD, "optimizer.weight_decay": 2e-4})
    return [
        Point("train", {"method": name, "seed": seed}, with_seed({**base, **settings}, seed))
        for seed in seeds
        for name, settings in _methods(size)
    ]


def _kept(base: str, with_bt: str) -> Callable[[Results], tuple[str, bool]]:
    """Whether BulletTrain keeps robust accuracy, and what it saves."""

    def measure(results: Results) -> tuple[str, bool]:
        ours, theirs = (_robust(method=name)(results) for name in (with_bt, base))
        spent = results.mean("gradients_per_example", method=with_bt)
        whole = results.mean("gradients_per_example", method=base)
        return f"{ours - theirs:+.1f} points with {spent / whole:.2f} of the gradients", ours - baseline(
            theirs
        ) >= -2 and spent <= MOST_SPENT * whole

    return measure


def _fast_fails(results: Results) -> tuple[str, bool]:
    fast, whole = _robust(method="TRADES + FAST")(results), _robust(method="TRADES")(results)
    return f"{fast:.1f} with one step, {whole:.1f} with all", fast < baseline(whole) / 2


def _yopo_loses(results: Results) -> tuple[str, bool]:
    yopo, whole = _robust(method="TRADES + YOPO-2-5")(results), _robust(method="TRADES")(results)
    clean = baseline(100 * results.mean("clean_accuracy", method="TRADES + YOPO-2-5"))
    return f"{yopo:.1f} of {baseline(whole):.1f} (clean {clean:.1f})", yopo < whole - 3


def _dominates(results: Results) -> tuple[str, bool | None]:
    pairs = [
        (_robust(method=f"TRADES + FAST, N = {n}")(results), _robust(method=f"TRADES + BT, N_B = {n + 1}")(results))
        for n in FEW
        if len(results.of("train", method=f"TRADES + FAST, N = {n}"))
    ]
    if not pairs:
        raise LookupError("no pair was run")
    text = ", ".join(f"{bt:.1f} against {fast:.1f}" for fast, bt in pairs)
    gains = [bt - baseline(fast) for fast, bt in pairs]
    return text, None if all(abs(gain) <= NOISE for gain in gains) else all(gain > -NOISE for gain in gains)


def with_costs(results: Results) -> Results:
    """The results with the shares of the classes, the theoretical speed-up of rows without an allocator (formula 7),
    and the speed-up by the processor's time over the same seed of the row that each is compared with."""
    return Results([{**record, "figures": {**_costs(record, results), **record["figures"]}} for record in results])


def _costs(record: Record, results: Results) -> dict[str, float]:
    found, (method, seed) = record["figures"], (record["at"][name] for name in ("method", "seed"))
    allocated = found.get("allocated") or {}
    costs = {f"{name}_share": count / sum(allocated.values()) for name, count in allocated.items()}
    for base in results.of("train", method=method.split(" + ")[0], seed=seed):
        if method == base["at"]["method"]:
            continue
        whole = base["figures"]
        costs["clock_speedup"] = whole["training_processor_seconds"] / found["training_processor_seconds"]
        if "YOPO" not in method:
            whole_gradients, gradients = (each["gradients_per_example"] for each in (whole, found))
            costs["theoretical_speedup"] = (whole_gradients + 1) / (gradients + 1)
    return costs


def _speed_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "gradients": record["figures"]["gradients_per_example"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "method": record["at"]["method"],
        }
        for record in results.of("train", seed=min(results.coordinates("seed")))
    ]
    return figures.scatter(
        rows,
        "gradients",
        "accuracy",
        "method",
        title="Robust accuracy and attack gradients",
        x_title="attack gradients an example",
        y_title="PGD accuracy, %",
    )


def _costs_of_paper(shares: str, theory: float | None, clock: float | None) -> dict[str, float]:
    """F_B, F_R and F_O, and both speed-ups, as figures of a row."""
    figures_of_row = {} if theory is None else {"theoretical_speedup": theory}
    figures_of_row |= {} if clock is None else {"clock_speedup": clock}
    names = ("boundary_share", "robust_share", "outlier_share")
    return {**dict(zip(names, map(float, shares.split()), strict=False)), **figures_of_row}


PAPERS: tuple[tuple[str, float, float, dict[str, float]], ...] = (  # Tables 2 to 4: clean and robust accuracy, costs
    ("TRADES", 84.92, 56.61, {}),
    ("TRADES, β / 6", 88.64, 49.14, {}),
    ("TRADES + FAST", 93.94, 4.48, _costs_of_paper("", 5.5, 3.7)),
    ("TRADES, β / 6 + YOPO-2-5", 88.47, 45.28, _costs_of_paper("", None, 3.1)),
    ("TRADES + YOPO-2-5", 89.95, 46.60, _costs_of_paper("", None, 3.1)),
    ("TRADES + BT, N_R = 0", 87.50, 52.10, _costs_of_paper(".26 .55 .18", 3.0, 2.7)),
    ("TRADES + BT, N_R = 2", 85.89, 56.35, _costs_of_paper(".28 .54 .18", 2.3, 2.2)),
    ("MART", 84.17, 57.39, {}),
    ("MART + FAST", 93.95, 0.20, _costs_of_paper("", 5.5, 4.0)),
    ("MART + BT, N_R = 1", 87.12, 58.11, _costs_of_paper(".29 .44 .27", 2.5, 2.1)),
    ("MART + BT, N_R = 2", 86.60, 58.74, _costs_of_paper(".30 .43 .26", 2.2, 1.9)),
    ("TRADES + FAST, N = 2", 85.43, 50.56, _costs_of_paper("", 3.7, 3.0)),
    ("TRADES + FAST, N = 3", 84.47, 53.52, _costs_of_paper("", 2.8, 2.5)),
    ("TRADES + FAST, N = 4", 84.23, 53.95, _costs_of_paper("", 2.2, 2.2)),
    ("TRADES + FAST, N = 5", 84.12, 54.45, _costs_of_paper("", 1.8, 1.8)),
    ("TRADES + BT, N_B = 3", 86.66, 55.93, _costs_of_paper("", 3.7, 3.0)),
    ("TRADES + BT, N_B = 4", 86.17, 55.77, _costs_of_paper("", 3.3, 2.8)),
    ("TRADES + BT, N_B = 5", 85.89, 56.17, _costs_of_paper("", 3.0, 2.7)),
    ("TRADES + BT, N_B = 6", 86.28, 56.0, _costs_of_paper("", 2.8, 2.6)),
)

METHODS = Study(
    "bullettrain",
    PAPER,
    "Tables 2, 3 and 4",
    "Does BulletTrain keep the robust accuracy of TRADES and MART, and what does it save?",
    {
        "quick": f"{QUICK_SENTENCE}; β = 1 (TRADES), 5 (MART), γ = 0.65.",
        "full": "CIFAR-10, WRN-34-10, 76 epochs, PGD-10; PGD-20 on all 10,000 test images.",
    },
    method_points,
    tables=(
        Table(
            ("method",),
            (CLEAN, PGD),
            paper={(row,): {"clean_accuracy": clean, "robust_accuracy": robust} for row, clean, robust, *_ in PAPERS},
            title="Accuracy (the paper's on CIFAR-10, WRN-34-10, under PGD-20; λ = 1/6, where β / 6 stands λ = 1)",
            compared=False,
        ),
        Table(
            ("method",),
            (GRADIENTS, *SHARES, THEORY, CLOCK, PROCESSOR),
            paper={(row,): costs for row, _, _, costs in PAPERS},
            title="Cost (speed-ups over the method without an addition)",
            compared=False,
        ),
    ),
    derived=with_costs,
    claims=(
        Claim(
            "TRADES + BulletTrain (N_R = 2) keeps the robust accuracy",
            "-0.3 points, 2.3 times faster in theory",
            _kept("TRADES", "TRADES + BT, N_R = 2"),
        ),
        Claim(
            "MART + BulletTrain (N_R = 2) keeps the robust accuracy",
            "+1.4 points, 2.2 times faster in theory",
            _kept("MART", "MART + BT, N_R = 2"),
        ),
        Claim("one step (FAST) makes no robust network with TRADES", "4.5 of 56.6", _fast_fails),
        Claim("YOPO-2-5 on TRADES loses robust accuracy", "46.6 of 56.6", _yopo_loses),
        Claim("BulletTrain beats TRADES with few steps for all, at equal theory", "at all four pairs", _dominates),
    ),
    charts={"gradients": _speed_chart},
)


def sensitivity_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """TRADES + BulletTrain over γ (N_R = 2) and over N_R (γ as in Table 2)."""
    quick = size == "quick"
    base = by_size(size, MNIST_QUICK, {**CIFAR_SGD, "optimizer.weight_decay": 2e-4})
    trades = {"objective.name": "trades", "objective.beta": 1.0 if quick else 6.0, **BULLETTRAIN}
    usual = 0.65 if quick else 0.8
    pairs = [(gamma, 2) for gamma in (0.65, 0.75, 0.8, 0.9)] + [(usual, count) for count in (0, 1, 3, 5)]
    return [
        Point(
            "train",
            {"gamma": gamma, "N_R": count, "seed": seed},
            with_seed({**base, **trades}, seed, allocator__gamma=gamma, allocator__robust_steps=count),
        )
        for seed in seeds
        for gamma, count in pairs
    ]


def _calm_gamma(results: Results) -> tuple[str, bool]:
    values = [_robust(gamma=gamma, N_R=2)(results) for gamma in (0.65, 0.75, 0.8, 0.9)]
    return f"{min(values):.1f} to {max(values):.1f} for γ of 0.65 to 0.9", max(values) - baseline(min(values)) <= 2


def _steps_trade(results: Results) -> tuple[str, bool | None]:
    gamma = results.of("train", N_R=0).coordinates("gamma")[0]
    none, two = (_robust(gamma=gamma, N_R=count)(results) for count in (0, 2))
    clean = [100 * results.mean("clean_accuracy", gamma=gamma, N_R=count) for count in (0, 2)]
    text = f"N_R = 0: {none:.1f} robust, {clean[0]:.1f} clean; N_R = 2: {two:.1f} and {clean[1]:.1f}"
    differences = baseline(two) - none, clean[0] - clean[1]
    return text, None if max(map(abs, differences)) <= NOISE else min(differences) > -NOISE


def _setting_chart(varied: str) -> Callable[[Results], dict[str, Any]]:
    """Figs. 6 and 7: accuracy by theoretical speed-up, while one setting varies."""

    def chart(results: Results) -> dict[str, Any]:
        usual = results.of(N_R=0).coordinates("gamma")[0]
        records = results.of(N_R=2) if varied == "gamma" else results.of(gamma=usual)
        rows = [
            {"speed-up": found["theoretical_speedup"], "accuracy": 100 * found[f"{kind}_accuracy"], "of": name}
            for found in (record["figures"] for record in records)
            for kind, name in (("clean", "clean"), ("robust", "PGD"))
        ]
        span = ", ".join(str(value) for value in sorted(records.coordinates(varied), reverse=True))
        title = f"Accuracy by theoretical speed-up, {'γ' if varied == 'gamma' else varied} = {span}"
        return figures.lines(rows, "speed-up", "accuracy", "of", title=title, x_title="theoretical speed-up")

    return chart


SENSITIVITY = Study(
    "bullettrain-settings",
    PAPER,
    "Figs. 6 and 7",
    "How much do γ and N_R matter?",
    {
        "quick": f"{QUICK_SENTENCE}; TRADES (β = 1) with BulletTrain.",
        "full": "CIFAR-10, WRN-34-10, 76 epochs, TRADES with BulletTrain; PGD-20 on all 10,000 test images.",
    },
    sensitivity_points,
    tables=(Table(("gamma", "N_R"), (CLEAN, PGD, GRADIENTS, THEORY)),),
    claims=(
        Claim("accuracy does not depend on γ", "flat from 0.65 to 0.9", _calm_gamma),
        Claim("fewer steps on robust examples: less robust, more accurate", "as N_R falls to 0", _steps_trade),
    ),
    charts={"gamma": _setting_chart("gamma"), "robust-steps": _setting_chart("N_R")},
)
