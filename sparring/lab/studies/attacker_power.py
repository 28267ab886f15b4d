"""Bhat et al. 2018: how many attack steps training needs, and whether few steps mask gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import (
    BHAT,
    CLEAN,
    MADRY,
    MADRY_SENTENCE,
    MNIST_QUICK,
    PGD_40,
    QUICK_SENTENCE,
    by_size,
    with_seed,
)
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, baseline

POWERS: dict[Size, tuple[int, ...]] = {"quick": (1, 2, 4, 8, 32), "full": (1, 2, 4, 8, 16, 32, 64, 128)}


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
    return f"{own:.1f} under κ = 8, {strong:.1f} under κ = {largest}", baseline(own) - strong <= 5


def _enough(results: Results) -> tuple[str, bool]:
    largest = max(results.of("train").coordinates("kappa"))
    eight, most = (100 * results.mean("robust_accuracy", "train", kappa=kappa) for kappa in (8, largest))
    return f"{eight:.1f} with κ = 8, {most:.1f} with κ = {largest} (PGD-40)", abs(baseline(most) - eight) <= 3


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
    BHAT,
    "Figs. 3 and 4, Table 1",
    "How many attack steps does training need, and do few steps mask gradients?",
    {"quick": f"{QUICK_SENTENCE}; κ = 1 to 32.", "full": f"{MADRY_SENTENCE}; κ = 1 to 128."},
    power_points,
    tables=(Table(("kappa",), (CLEAN, PGD_40, Column("gradients_per_example", "gradients an example", share=False))),),
    claims=(
        Claim("κ = 1 in training masks gradients", "98.6 against itself, 27.2 on examples of κ = 8", _masked(1)),
        Claim("κ = 4 in training masks gradients", "100.0 against itself, 54.2 on examples of κ = 8", _masked(4)),
        Claim("a network trained with κ = 8 withstands stronger attacks", "93.9 under κ = 8, 91 under 128", _universal),
        Claim("κ = 8 in training is enough", "89 to 91 for κ = 8 and more", _enough),
    ),
    charts={"powers": _power_chart, "transfer": _transfer_chart},
)
