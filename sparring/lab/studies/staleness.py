"""Bhat et al. 2018: how many attack steps, how much staleness, how many devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import MADRY, MADRY_SENTENCE, MNIST_QUICK, QUICK_SENTENCE, by_size, with_seed
from sparring.lab.study import SIZES, Claim, Column, Point, Size, Study, Table, Value

PAPER = "001 Bhat, Tsipras, Mądry 2018"
CLEAN, PGD = Column("clean_accuracy", "clean"), Column("robust_accuracy", "PGD-40")
POWERS: dict[Size, tuple[int, ...]] = {"quick": (1, 2, 4, 8, 32), "full": (1, 2, 4, 8, 16, 32, 64, 128)}
STEPS: dict[Size, tuple[int, ...]] = {
    "quick": (0, 1, 2, 4, 8, 16, 32, 64, 128),
    "full": (0, *(2**power for power in range(11))),
}
RATES: dict[Size, tuple[float, ...]] = {"quick": (0.0005, 0.002), "full": (1e-4,)}


def power_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Networks trained with κ steps; each attacked with every κ', and their transfer matrix."""
    base = by_size(size, MNIST_QUICK, MADRY)
    found: list[Point] = []
    for seed in seeds:
        networks = [
            Point("train", {"kappa": kappa, "seed": seed}, with_seed(base, seed, attack__steps=kappa))
            for kappa in POWERS[size]
        ]
        found += networks
        for network in networks:
            for by in POWERS[size]:
                attack = {"evaluation.steps": by, "evaluation.step_size": 2.5 * 0.3 / by, "evaluation.restarts": 1}
                found.append(Point("evaluate", {**network.at, "by": by}, attack, needs=(network,)))
        found.append(Point("transfer", {"seed": seed}, {"evaluation.restarts": 1}, needs=tuple(networks)))
    return found


def _white(kappa: int, by: int) -> Callable[[Results], float]:
    return lambda results: 100 * results.mean("robust_accuracy", "evaluate", kappa=kappa, by=by)


def crossed(results: Results, source: int, target: int) -> float:
    """Accuracy in percent of the network trained with `target` steps on examples of the one with `source`; mean.

    Raises:
        LookupError: it has not been measured.
    """
    found: list[float] = []
    for record in results.of("transfer"):
        places = {member["kappa"]: place for place, member in enumerate(record["figures"]["members"])}
        if source in places and target in places:
            found.append(100 * record["figures"]["accuracy"][places[source]][places[target]])
    if not found:
        raise LookupError(f"no transfer from {source} to {target}")
    return sum(found) / len(found)


def _masked(weak: int) -> Callable[[Results], tuple[str, bool | None]]:
    """Whether the network trained with few steps looks more robust to its own attack than to transferred ones."""

    def measure(results: Results) -> tuple[str, bool]:
        own, other = _white(weak, weak)(results), crossed(results, 8, weak)
        return f"{own:.1f} against itself, {other:.1f} on examples of κ = 8", own > other + 3

    return measure


def _universal(results: Results) -> tuple[str, bool]:
    largest = max(results.of("evaluate").coordinates("by"))
    own, strong = _white(8, 8)(results), _white(8, largest)(results)
    return f"{own:.1f} under κ = 8, {strong:.1f} under κ = {largest}", own - strong <= 5


def _enough(results: Results) -> tuple[str, bool]:
    largest = max(results.of("train").coordinates("kappa"))
    eight, most = (100 * results.mean("robust_accuracy", "train", kappa=kappa) for kappa in (8, largest))
    return f"{eight:.1f} with κ = 8, {most:.1f} with κ = {largest} (PGD-40)", abs(most - eight) <= 3


def _transfer_chart(results: Results) -> dict[str, Any]:
    kappas = results.of("train").coordinates("kappa")
    rows = [
        {"source": str(source), "target": str(target), "accuracy": crossed(results, source, target)}
        for source in kappas
        for target in kappas
    ]
    return figures.matrix(
        rows,
        "source",
        "target",
        "accuracy",
        title="Accuracy on transferred examples, %",
        x_title="examples of the network trained with κ =",
        y_title="network trained with κ =",
    )


def _power_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "by": record["at"]["by"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "trained": f"trained with κ = {record['at']['kappa']}",
        }
        for record in results.of("evaluate")
    ]
    return figures.lines(
        rows,
        "by",
        "accuracy",
        "trained",
        title="Robust accuracy under PGD with κ steps of 2.5·ε/κ",
        x_title="κ of the attack",
        scale="log",
    )


ATTACKER_POWER = Study(
    "attacker-power",
    PAPER,
    "Figs. 3 and 4, Table 1",
    "How many attack steps does training need, and do few steps mask gradients?",
    {"quick": f"{QUICK_SENTENCE}; κ = 1 to 32.", "full": f"{MADRY_SENTENCE}; κ = 1 to 128."},
    power_points,
    tables=(Table(("kappa",), (CLEAN, PGD, Column("gradients_per_example", "gradients an example", share=False))),),
    claims=(
        Claim("κ = 1 in training masks gradients", "98.6 against itself, 27.2 on examples of κ = 8", _masked(1)),
        Claim("κ = 4 in training masks gradients", "100.0 against itself, 54.2 on examples of κ = 8", _masked(4)),
        Claim("a network trained with κ = 8 withstands stronger attacks", "93.9 under κ = 8, 91 under 128", _universal),
        Claim("κ = 8 in training is enough", "89 to 91 for κ = 8 and more", _enough),
    ),
    charts={"powers": _power_chart, "transfer": _transfer_chart},
)


def stale_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Exact staleness s at each peak rate, and with the guard at two of them."""
    base = {**by_size(size, MNIST_QUICK, MADRY), "engine": "simulated", "staleness.gap_every": 50}
    series = {"series": ["fresh_minus_stale", "train_robust_accuracy"]}
    found: list[Point] = []
    for seed in seeds:
        for rate in RATES[size]:
            for s in STEPS[size]:
                settings = with_seed(base, seed, optimizer__lr=rate, simulated__staleness=s)
                at: dict[str, Value] = {"rate": rate, "s": s, "guard": "off", "seed": seed}
                found.append(Point("train", at, settings, series))
        for s in (16, 64):
            rate = RATES[size][-1]
            settings = with_seed(base, seed, optimizer__lr=rate, simulated__staleness=s, guard__staleness=True)
            found.append(Point("train", {"rate": rate, "s": s, "guard": "on", "seed": seed}, settings, series))
    return found


def _at(s: int, rate: float | None = None, guard: str = "off") -> Callable[[Results], float]:
    """PGD accuracy in percent at a staleness; by default at the lowest rate."""

    def measure(results: Results) -> float:
        lowest = min(results.coordinates("rate"))
        return 100 * results.mean("robust_accuracy", s=s, guard=guard, rate=lowest if rate is None else rate)

    return measure


def _up_to_32(results: Results) -> tuple[str, bool]:
    fresh, stale = _at(0)(results), _at(32)(results)
    return f"{fresh:.1f} at s = 0, {stale:.1f} at s = 32, at the lower rate", fresh - stale <= 3


def _cliff(results: Results) -> tuple[str, bool]:
    fresh, stale = _at(0)(results), _at(64)(results)
    return f"{fresh:.1f} at s = 0, {stale:.1f} at s = 64, at the lower rate", stale <= 20


def _gap(results: Results) -> tuple[str, bool]:
    """The largest difference of fresh and stale accuracy in training, at s = 64 and the lowest rate."""
    lowest = min(results.coordinates("rate"))
    records = list(results.of(s=64, guard="off", rate=lowest))
    if not records:
        raise LookupError("s = 64 was not run")
    gaps = [each for record in records for each in record["figures"]["series"]["fresh_minus_stale"] if each is not None]
    return f"fresh falls {-100 * min(gaps):.0f} points below stale at s = 64", min(gaps) <= -0.1


def _rates(results: Results) -> tuple[str, bool | None]:
    rates = results.coordinates("rate")
    if len(rates) < 2:
        raise LookupError("only one rate was run")
    low, high = (_at(16, rate)(results) - _at(0, rate)(results) for rate in (min(rates), max(rates)))
    return f"s = 16 costs {-low:.1f} points at {min(rates):g} and {-high:.1f} at {max(rates):g}", None


def _guarded(results: Results) -> tuple[str, bool | None]:
    rate = max(results.coordinates("rate"))
    without, guarded = _at(64, rate)(results), _at(64, rate, "on")(results)
    return f"{without:.1f} without the guard, {guarded:.1f} with it (s = 64)", None


def _stale_chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "s": record["at"]["s"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "rate": f"peak rate {record['at']['rate']:g}" + (", guard" if record["at"]["guard"] == "on" else ""),
        }
        for record in results
    ]
    title = "PGD-40 accuracy by staleness"
    return figures.lines(rows, "s", "accuracy", "rate", title=title, x_title="staleness s, steps", scale="symlog")


def _training_chart(results: Results) -> dict[str, Any]:
    rate = min(results.coordinates("rate"))
    rows = []
    for s in (32, 64):
        for record in results.of(s=s, guard="off", rate=rate):
            series = record["figures"]["series"]
            for step, stale, gap in zip(
                series["step"], series["train_robust_accuracy"], series["fresh_minus_stale"], strict=True
            ):
                if stale is not None and gap is not None:
                    rows.append({"step": step, "accuracy": 100 * stale, "of": f"stale, s = {s}"})
                    rows.append({"step": step, "accuracy": 100 * (stale + gap), "of": f"fresh, s = {s}"})
    title = "Training accuracy on stale and fresh examples"
    return figures.lines(rows, "step", "accuracy", "of", title=title, x_title="step", points=False)


STALENESS = Study(
    "staleness",
    PAPER,
    "Figs. 5 and 8",
    "How stale may the weights be that attack, and does it depend on the learning rate?",
    {
        "quick": f"{QUICK_SENTENCE}, with exact staleness; peak rates 0.0005 and 0.002.",
        "full": f"{MADRY_SENTENCE}, with exact staleness.",
    },
    stale_points,
    tables=(Table(("rate", "guard", "s"), (CLEAN, PGD, Column("gradients_per_example", "gradients", share=False))),),
    claims=(
        Claim("s ≤ 32 costs nothing", "about 90 for all s ≤ 32", _up_to_32),
        Claim("s = 64 destroys robustness", "about 5 at s = 64", _cliff),
        Claim("past the cliff fresh accuracy is far below stale accuracy in training", "seen at s = 64", _gap),
        Claim("a higher learning rate makes staleness worse", "not measured", _rates),
        Claim("the staleness guard keeps a stale run robust", "not measured: ours", _guarded),
    ),
    charts={"accuracy": _stale_chart, "training": _training_chart},
)


def cycle_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Runs with and without staleness that keep a checkpoint every few steps of their second half."""
    every, keep = (16, 20) if size == "quick" else (64, 200)
    base = {**by_size(size, MNIST_QUICK, MADRY), "engine": "simulated", "staleness.gap_every": 0}
    found: list[Point] = []
    for seed in seeds:
        for s in (0, 64):
            settings = with_seed(
                base, seed, simulated__staleness=s, checkpoint__every_steps=every, checkpoint__keep=keep
            )
            network = Point("train", {"s": s, "seed": seed}, settings)
            found += [network, Point("cycle", {"s": s, "seed": seed}, options={"samples": 64}, needs=(network,))]
    return found


def _common(results: Results) -> tuple[str, bool]:
    fresh, stale = (results.mean("common", "cycle", s=s) for s in (0, 64))
    return f"cosine of different images' perturbations {stale:.2f} at s = 64, {fresh:.2f} at s = 0", stale > fresh


def _moves(results: Results) -> tuple[str, bool]:
    """Whether the perturbation of an image turns away and comes back at s = 64."""
    records = list(results.of("cycle", s=64))
    if not records:
        raise LookupError("s = 64 was not run")
    similarity = records[0]["figures"]["similarity"][: len(records[0]["figures"]["similarity"]) * 3 // 4]
    lowest = min(range(len(similarity)), key=similarity.__getitem__)
    back = max(similarity[lowest:])
    every = records[0]["figures"]["steps"][1] - records[0]["figures"]["steps"][0]
    text = f"similarity falls to {similarity[lowest]:.2f} after {lowest * every} steps and rises again to {back:.2f}"
    return text, back > similarity[lowest] + 0.1


def _strip_chart(results: Results) -> dict[str, Any]:
    rows = [
        {"step": step, "s": f"s = {record['at']['s']}", "image": figures.picture(image, record["figures"]["shape"])}
        for record in results.of("cycle")
        for step, image in zip(
            record["figures"]["steps"][-len(record["figures"]["strip"]) :], record["figures"]["strip"], strict=True
        )
    ]
    return figures.strip(rows, "step", "s", "image", title="The same test image, attacked at successive steps")


def _similarity_chart(results: Results) -> dict[str, Any]:
    rows = []
    for record in results.of("cycle"):
        every = record["figures"]["steps"][1] - record["figures"]["steps"][0]
        for lag, value in enumerate(record["figures"]["similarity"]):
            rows.append({"lag": lag * every, "cosine": value, "s": f"s = {record['at']['s']}"})
    title = "Perturbations of the same image some steps apart"
    return figures.lines(
        rows, "lag", "cosine", "s", title=title, x_title="steps apart", y_title="cosine, mean of 64 images", top=None
    )


CYCLES = Study(
    "cycles",
    PAPER,
    "Fig. 6",
    "Do attacks on stale weights cycle?",
    {
        "quick": f"{QUICK_SENTENCE}; attacks from a zero start on 64 test images every 16 steps.",
        "full": f"{MADRY_SENTENCE}; attacks from a zero start on 64 test images every 64 steps.",
    },
    cycle_points,
    claims=(
        Claim("at s = 64 all images get one common pattern, at s = 0 they look random", "seen by eye", _common),
        Claim("at s = 64 the pattern leaves and comes back", "a line segment that cycles", _moves),
    ),
    charts={"strip": _strip_chart, "similarity": _similarity_chart},
)


def long_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """A broken run of s = 64, and the same recipe with five times the steps."""
    base = {**by_size(size, MNIST_QUICK, MADRY), "engine": "simulated", "staleness.gap_every": 50}
    rate = 0.0005 if size == "quick" else 1e-4
    constant = {"schedule.name": "constant", "optimizer.lr": rate, "simulated.staleness": 64}
    epochs = base["train.epochs"]
    series = {"series": ["fresh_minus_stale", "train_robust_accuracy"]}
    return [
        Point(
            "train",
            {"times": times, "seed": seed},
            with_seed({**base, **constant}, seed, train__epochs=times * epochs),
            series,
        )
        for seed in seeds
        for times in (1, 5)
    ]


def _recovers(results: Results) -> tuple[str, bool]:
    short, long = (100 * results.mean("robust_accuracy", times=times) for times in (1, 5))
    return f"{short:.1f} after the usual steps, {long:.1f} after five times as many", long - short >= 20


def _long_chart(results: Results) -> dict[str, Any]:
    rows = []
    for record in results.of("train", times=5):
        series = record["figures"]["series"]
        for step, stale, gap in zip(
            series["step"], series["train_robust_accuracy"], series["fresh_minus_stale"], strict=True
        ):
            if stale is not None and gap is not None:
                rows += [
                    {"step": step, "accuracy": 100 * stale, "of": "stale"},
                    {"step": step, "accuracy": 100 * (stale + gap), "of": "fresh"},
                ]
    return figures.lines(
        rows, "step", "accuracy", "of", title="A run at s = 64 that goes on", x_title="step", points=False
    )


LONG = Study(
    "broken-run",
    PAPER,
    "Fig. 7",
    "Does a run that staleness has broken recover if it goes on?",
    {
        "quick": f"{QUICK_SENTENCE}, but a constant rate of 0.0005; s = 64, and 3,000 steps beside 600.",
        "full": f"{MADRY_SENTENCE}; s = 64, and 300,000 steps beside 60,000.",
    },
    long_points,
    tables=(Table(("times",), (CLEAN, PGD)),),
    claims=(Claim("after about 150,000 steps fresh accuracy catches up", "about 5, then about 90", _recovers),),
    charts={"training": _long_chart},
)

DEVICES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
SYSTEMS: dict[str, dict[str, Any]] = {
    "as in the paper": {
        "staleness.trainer_attacks": "never",
        "staleness.publish_every": 100,
        "staleness.max_staleness": 200,
    },
    "trainer attacks in its spare time": {"staleness.trainer_attacks": "auto", "staleness.max_staleness": 4},
}


def device_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Speed-up by devices on the virtual clock, where a training step takes as long as an attack step."""
    base = {
        "attack.steps": 8,
        "train.batch_size": 128,
        "virtual.attack_example_s": 1e-2 / 128,
        "virtual.step_example_s": 1e-2 / 128,
        "virtual.jitter": 0.05,
        "train.seed": 0,
    }
    return [
        Point("clock", {"system": name, "devices": count}, {**base, **settings, "workers.count": count - 1})
        for name, settings in SYSTEMS.items()
        for count in DEVICES
    ]


def _speed_up(system: str, devices: int) -> Callable[[Results], float]:
    return lambda results: float(results.mean("speed_up", system=system, devices=devices))


def _five(results: Results) -> tuple[str, bool]:
    seven, eight = (_speed_up("as in the paper", devices)(results) for devices in (7, 8))
    return f"{seven:.1f} with 7, {eight:.1f} with 8", abs(eight - 5) <= 1


def _two(results: Results) -> tuple[str, bool]:
    paper, ours = (_speed_up(system, 2)(results) for system in SYSTEMS)
    return f"{paper:.2f} with two devices, {ours:.2f} where the trainer attacks, too", paper < 1.5 < ours


def _flat(results: Results) -> tuple[str, bool]:
    values = {count: _speed_up("as in the paper", count)(results) for count in (9, 12, 16)}
    return ", ".join(f"{value:.1f} with {count}" for count, value in values.items()), values[16] <= values[9] * 1.1


def _device_chart(results: Results) -> dict[str, Any]:
    rows = [
        {"devices": r["at"]["devices"], "speed": r["figures"]["speed_up"], "system": r["at"]["system"]} for r in results
    ]
    rows += [{"devices": count, "speed": count, "system": "linear"} for count in DEVICES]
    title = "Speed-up by devices, on the virtual clock"
    return figures.lines(
        rows, "devices", "speed", "system", title=title, x_title="devices", y_title="speed-up", top=None
    )


SPEED_UP = Study(
    "devices",
    PAPER,
    "Fig. 9",
    "How much faster do more devices make a run?",
    dict.fromkeys(
        SIZES,
        "The virtual clock: an attack step and a training step take 10 ms for 128 examples, κ = 8, latencies 1 ms, "
        "jitter 5 %. Examples a second alone: what staleness costs is not in them.",
    ),
    device_points,
    tables=(
        Table(
            ("system", "devices"),
            (
                Column("speed_up", "speed-up", share=False, digits=2),
                Column("staleness", "staleness, mean", share=False, digits=1),
            ),
            "clock",
        ),
    ),
    claims=(
        Claim("about five times faster with 7 and 8 devices", "nearly 5 with 7, over 5 with 8", _five),
        Claim("with two devices the trainer mostly waits", "slightly worse than linear", _two),
        Claim("flat once workers make more than the trainer takes (κ + 1 devices)", "from 7 or 8 devices on", _flat),
    ),
    charts={"speed-up": _device_chart},
)
