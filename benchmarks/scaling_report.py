"""What `benchmarks.scaling` has measured, as a table and as a picture.

python -m benchmarks.scaling_report FOLDER/scaling.json … [PICTURE.png]
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import spread

Rows = list[dict[str, Any]]
LEAST_EFFICIENCY, OF_SEVERAL_TRAINERS, MOST_STALENESS, LEAST_BUSY, FULL_CORES = 0.95, 0.93, 2.0, 0.97, 0.9
MOST_EXCHANGED = 3  # staleness of any shard (by its last two attack steps), where a step is one shard and weights swap
POWERS = [2, 4, 8, 16, 32]  # of the speed-up's scale
BASELINE_ERROR = 0.03  # of the synchronous loop's time: beyond it, something else ran on the machine
COLUMNS = (
    "series",
    "R, W",
    "F",
    "M, d",
    "speed-up (range)",
    "ideal",
    "sync, ms a shard",
    "efficiency",
    "staleness, mean / max",
    "dropped",
    "own shards",
    "device busy",
    "publish, ms",
    "cores",
    "bars",
)


def grouped(rows: Rows) -> dict[tuple[str, int], Rows]:
    """The rounds of each row."""
    groups: dict[tuple[str, int], Rows] = {}
    for row in rows:
        groups.setdefault((row["series"], row["workers"]), []).append(row)
    return groups


def median(rows: Rows, name: str) -> float:
    return float(statistics.median(row[name] for row in rows))


def missed(rows: Rows) -> list[str]:
    """Which bars the row does not hold, by its medians."""
    if rows[0]["series"] == "exchange":
        fresh = max(row["staleness_max"] for row in rows) <= MOST_EXCHANGED
    else:
        fresh = median(rows, "staleness_mean") <= MOST_STALENESS
    least = LEAST_EFFICIENCY if rows[0].get("trainers", 1) == 1 else OF_SEVERAL_TRAINERS
    bars = {
        "baseline": all(abs(row["sync_ms"] / row["sync_ms_wanted"] - 1) <= BASELINE_ERROR for row in rows),
        "efficiency": median(rows, "efficiency") >= least,
        "staleness": fresh,
        "drops": max(row["dropped"] for row in rows) == 0,
        "busy": not rows[0]["saturated"] or median(rows, "device_busy") >= LEAST_BUSY,
    }
    return [name for name, holds in bars.items() if not holds]


def table(rows: Rows) -> str:
    """Markdown, one line a row, medians over the rounds."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for (series, workers), found in grouped(rows).items():
        speedups, full = [row["speedup"] for row in found], median(found, "cores_busy") >= FULL_CORES
        cells = (
            series,
            f"{found[0].get('trainers', 1)}, {workers}",
            f"{found[0]['slow_down']:g}",
            f"{found[0]['shards_per_step']}, {found[0]['depth']}",
            spread(speedups),
            f"{found[0]['ideal']:.1f}",
            f"{median(found, 'sync_ms'):.1f} of {found[0]['sync_ms_wanted']:.0f}",
            f"{median(found, 'efficiency'):.3f}",
            f"{median(found, 'staleness_mean'):.2f} / {max(row['staleness_max'] for row in found)}",
            max(row["dropped"] for row in found),
            f"{100 * median(found, 'own_share'):.0f} %",
            f"{100 * median(found, 'device_busy'):.1f} %",
            f"{median(found, 'publish_ms'):.1f}",
            f"{100 * median(found, 'cores_busy'):.0f} %{' (full)' if full else ''}",
            f"missed: {', '.join(missed(found))}" if missed(found) else "hold",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot(rows: Rows, path: Path) -> None:
    """Speed-up with the ideal, efficiency, and mean staleness below, against workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 9), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    groups = grouped(rows)
    for number, series in enumerate(dict.fromkeys(name for name, _ in groups)):
        found = sorted((workers, each) for (name, workers), each in groups.items() if name == series)
        workers, colour = [count for count, _ in found], f"C{number}"
        above.plot(workers, [each[0]["ideal"] for _, each in found], ":", color=colour, label=f"{series}, ideal")
        for axis, name in ((above, "speedup"), (middle, "efficiency"), (below, "staleness_mean")):
            axis.plot(workers, [median(each, name) for _, each in found], "o-", color=colour, label=series)
    above.set(ylabel="speed-up over the synchronous loop", xscale="log", yscale="log")
    middle.set(ylabel="speed-up / ideal", ylim=(0, 1.05))
    middle.axhline(LEAST_EFFICIENCY, color="grey", linewidth=0.8)
    below.set(ylabel="mean staleness, steps", xlabel="workers", ylim=(0, None))
    below.axhline(MOST_STALENESS, color="grey", linewidth=0.8)
    ticks = sorted({workers for _, workers in groups})
    for set_ticks in (below.set_xticks, above.set_yticks):
        set_ticks([], minor=True)
    below.set_xticks(ticks, map(str, ticks))
    above.set_yticks(POWERS, map(str, POWERS))
    above.legend(fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    measurements = [row for path in given if path.suffix == ".json" for row in json.loads(path.read_text())["rows"]]
    sys.stdout.write(table(measurements) + "\n")
    for picture in (path for path in given if path.suffix != ".json"):
        plot(measurements, picture)
