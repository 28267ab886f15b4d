"""Bhat et al. 2018: how stale the weights may be that attack, and what staleness does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import (
    BHAT,
    CLEAN,
    GAP,
    MADRY,
    MADRY_SENTENCE,
    MNIST_QUICK,
    PGD_40,
    QUICK_SENTENCE,
    WATCHED,
    by_size,
    with_seed,
)
from sparring.lab.study import OURS, UNMEASURED, Claim, Column, Point, Size, Study, Table, Value, baseline

RECOVERY = 150_000  # steps after which the paper's broken run had recovered
NOISE, PLAIN = 0.1, 0.2  # of cosines: what says nothing, and what is plain to see
STEPS: dict[Size, tuple[int, ...]] = {
    "quick": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256),
    "full": (0, *(2**power for power in range(11))),
}
RATES: dict[Size, tuple[float, ...]] = {"quick": (0.0005, 0.002), "full": (1e-4,)}


def stale_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Exact staleness s at each peak rate, and with the guard at two of them."""
    base = {**by_size(size, MNIST_QUICK, MADRY), **WATCHED}
    found: list[Point] = []
    for seed in seeds:
        for rate in RATES[size]:
            for s in STEPS[size]:
                settings = with_seed(base, seed, optimizer__lr=rate, simulated__staleness=s)
                at: dict[str, Value] = {"rate": rate, "s": s, "guard": "off", "seed": seed}
                found.append(Point("train", at, settings, GAP))
        for s in (16, 64):
            rate = RATES[size][-1]
            settings = with_seed(base, seed, optimizer__lr=rate, simulated__staleness=s, guard__staleness=True)
            found.append(Point("train", {"rate": rate, "s": s, "guard": "on", "seed": seed}, settings, GAP))
    return found


def _at(s: int, rate: float | None = None, guard: str = "off") -> Callable[[Results], float]:
    """PGD accuracy in percent at a staleness; by default at the lowest rate."""

    def measure(results: Results) -> float:
        lowest = min(results.coordinates("rate"))
        return 100 * results.mean("robust_accuracy", s=s, guard=guard, rate=lowest if rate is None else rate)

    return measure


def _up_to_32(results: Results) -> tuple[str, bool]:
    fresh, stale = _at(0)(results), _at(32)(results)
    return f"{fresh:.1f} at s = 0, {stale:.1f} at s = 32, at the lower rate", baseline(fresh) - stale <= 3


def _cliff(results: Results) -> tuple[str, bool]:
    fresh, stale = _at(0)(results), _at(64)(results)
    return f"{fresh:.1f} at s = 0, {stale:.1f} at s = 64, at the lower rate", stale <= baseline(fresh) / 3


def end_gap(results: Results, s: int, rate: float) -> float:
    """Fresh minus stale accuracy in training, in points: mean of the last quarter of the run, at a rate.

    Raises:
        LookupError: it was not run.
    """
    gaps: list[float] = []
    for record in results.of("train", s=s, guard="off", rate=rate):
        found = [each for each in record["figures"]["series"]["fresh_minus_stale"] if each is not None]
        gaps += found[len(found) * 3 // 4 :]
    if not gaps:
        raise LookupError(f"s = {s} was not run")
    return 100 * mean(gaps)


def _gap(results: Results) -> tuple[str, bool]:
    rates = results.coordinates("rate")
    gaps = {rate: (end_gap(results, 32, rate), end_gap(results, 64, rate)) for rate in rates}
    each = [f"{past:.1f} at s = 64 and {below:.1f} at 32 (rate {rate:g})" for rate, (below, past) in gaps.items()]
    return f"fresh minus stale at the end: {'; '.join(each)}", any(past <= -10 < below for below, past in gaps.values())


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
    BHAT,
    "Figs. 5 and 8",
    "How stale may the weights be that attack, and does it depend on the learning rate?",
    {
        "quick": f"{QUICK_SENTENCE}, with exact staleness; peak rates 0.0005 and 0.002.",
        "full": f"{MADRY_SENTENCE}, with exact staleness.",
    },
    stale_points,
    tables=(Table(("rate", "guard", "s"), (CLEAN, PGD_40, Column("gradients_per_example", "gradients", share=False))),),
    claims=(
        Claim("s ≤ 32 costs nothing", "about 90 for all s ≤ 32", _up_to_32),
        Claim("s = 64 destroys robustness", "about 5 at s = 64", _cliff),
        Claim("past the cliff fresh accuracy is far below stale accuracy in training", "seen at s = 64", _gap),
        Claim("a higher learning rate makes staleness worse", UNMEASURED, _rates),
        Claim("the staleness guard keeps a stale run robust", OURS, _guarded),
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


def _common(results: Results) -> tuple[str, bool | None]:
    fresh, stale = (results.mean("common", "cycle", s=s) for s in (0, 64))
    text = f"cosine of different images' perturbations {stale:.2f} at s = 64, {fresh:.2f} at s = 0"
    return text, None if abs(stale - fresh) <= NOISE else stale > fresh


def _rise(results: Results, s: int) -> tuple[float, float, int]:
    """Of the similarity at a staleness: its least value, the greatest after it, and after how many steps it is least.

    Raises:
        LookupError: it was not run.
    """
    for record in results.of("cycle", s=s):
        similarity, steps = (
            record["figures"]["similarity"][:-2],
            record["figures"]["steps"],
        )  # the last are of few pairs
        lowest = min(range(len(similarity)), key=similarity.__getitem__)
        return similarity[lowest], max(similarity[lowest:]), lowest * (steps[1] - steps[0])
    raise LookupError(f"s = {s} was not run")


def _moves(results: Results) -> tuple[str, bool | None]:
    """Whether the perturbation of an image turns away and comes back at s = 64, and not at s = 0."""
    (least, back, after), (fresh_least, fresh_back, _) = _rise(results, 64), _rise(results, 0)
    text = (
        f"similarity falls to {least:.2f} after {after} steps and rises again to {back:.2f} (s = 0: by "
        f"{fresh_back - fresh_least:.2f})"
    )
    rise = back - least - (fresh_back - fresh_least)
    return text, True if rise >= PLAIN else None if rise > NOISE / 2 else False


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
    BHAT,
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
    base = {**by_size(size, MNIST_QUICK, MADRY), **WATCHED}
    rate = 0.0005 if size == "quick" else 1e-4
    constant = {"schedule.name": "constant", "optimizer.lr": rate, "simulated.staleness": 64}
    epochs = base["train.epochs"]
    return [
        Point(
            "train",
            {"times": times, "seed": seed},
            with_seed({**base, **constant}, seed, train__epochs=times * epochs),
            GAP,
        )
        for seed in seeds
        for times in (1, 5)
    ]


def _recovers(results: Results) -> tuple[str, bool | None]:
    """A run shorter than the paper's that has not recovered says nothing against it."""
    short, long = (100 * results.mean("robust_accuracy", times=times) for times in (1, 5))
    recovered = long - short >= 50
    too_short = not recovered and results.mean("steps", times=5) < RECOVERY
    text = f"{short:.1f} after the usual steps, {long:.1f} after five times as many"
    return text, None if too_short else recovered


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
    BHAT,
    "Fig. 7",
    "Does a run that staleness has broken recover if it goes on?",
    {
        "quick": f"{QUICK_SENTENCE}, but a constant rate of 0.0005; s = 64, and 3,000 steps beside 600.",
        "full": f"{MADRY_SENTENCE}; s = 64, and 300,000 steps beside 60,000.",
    },
    long_points,
    tables=(Table(("times",), (CLEAN, PGD_40)),),
    claims=(Claim("after about 150,000 steps fresh accuracy catches up", "about 5, then about 90", _recovers),),
    charts={"training": _long_chart},
)
