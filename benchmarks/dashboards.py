"""Pictures of what the dashboards show, of a run that is made for them and scraped by a real Prometheus.

    python -m benchmarks.dashboards --out docs/pictures [--GROUP.NAME VALUE ...]

No Grafana draws them: matplotlib does, from the same queries, in the same places. Settings change the run: digits with
the BulletTrain allocator and everything measured that is on a panel. Needs Debian's package prometheus.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.ticker import EngFormatter, PercentFormatter, ScalarFormatter
from PIL import Image

from benchmarks.prometheus import Prometheus
from sparring.observe.dashboards import DASHBOARDS
from sparring.observe.dashboards.grafana import places
from sparring.observe.dashboards.queries import Dashboard, Panel, Query

# A run in which everything is measured that a panel shows and a machine without GPUs has.
MEASURED = {
    "data.holdout": "200",
    "train.evaluate_every_epochs": "1",
    "train.evaluate_samples": "200",
    "allocator.name": "bullettrain",
    "staleness.gap_every": "20",
    "guard.overfitting": "stop",
    "guard.overfitting_fall": "0.9",
    "guard.overfitting_every": "20",
    "checkpoint.every_steps": "100",
    "evaluation.steps": "2",
    "evaluation.restarts": "1",
    "evaluation.samples": "100",
}
NAME = "digits"
RATE_WINDOW_S = 10
RUN_LIMIT_S = 1800.0
INCHES = (0.62, 0.38)  # of a 24th of the width, and of one of Grafana's rows
DPI = 62
COLOURS = 96  # fewer bytes, and no difference to be seen
FORMATS = {
    "percentunit": PercentFormatter(1, decimals=0, symbol=" %"),
    "bytes": EngFormatter("B"),
    "Bps": EngFormatter("B/s"),
    "s": EngFormatter("s"),
}


def start_run(root: Path, name: str, targets: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Train in a process of its own that names itself in `targets`; what it says goes to ROOT/NAME.log."""
    own = {"run.root": str(root), "run.name": name, "metrics.file_sd": str(targets)}
    words = [word for key, value in {**MEASURED, **settings, **own}.items() for word in (f"--{key}", value)]
    with (root / f"{name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "sparring", "train", *words], stdout=log, stderr=log)


def filled_in(query: Query, run: str) -> str:
    """The query as Grafana would send it."""
    return query.expr.replace("$run", run).replace("$__rate_interval", f"{RATE_WINDOW_S}s")


def points(series: dict[str, Any], start: float) -> tuple[list[float], list[float]]:
    """Seconds since `start` and values, those left out that are no number."""
    found = [(float(at) - start, float(value)) for at, value in series["values"]]
    kept = [(at, value) for at, value in found if math.isfinite(value)]
    return [at for at, _ in kept], [value for _, value in kept]


def legend(query: Query, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend)


class Picture:
    """One dashboard of one run between two moments."""

    def __init__(self, prometheus: Prometheus, run: str, start: float, end: float) -> None:
        self.prometheus, self.run, self.start, self.end = prometheus, run, start, end

    def draw(self, dashboard: Dashboard, path: Path) -> None:
        shown = list(zip(dashboard.panels, places(dashboard.panels), strict=True))
        rows = max(place["y"] + place["h"] for _, place in shown)
        figure = matplotlib.figure.Figure(figsize=(24 * INCHES[0], rows * INCHES[1]))
        for panel, place in shown:
            left, bottom = place["x"] / 24, 1 - (place["y"] + place["h"]) / rows
            width, height = place["w"] / 24, place["h"] / rows
            bare = panel.kind == "number"
            axes = figure.add_axes(
                (
                    left + (0 if bare else 0.042),
                    bottom + (0 if bare else 1.2 / rows),
                    width - (0 if bare else 0.052),
                    height - (0 if bare else 2.2 / rows),
                )
            )
            self._panel(axes, panel)
        drawn = BytesIO()
        figure.savefig(drawn, dpi=DPI)
        Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)

    def _panel(self, axes: Any, panel: Panel) -> None:
        if panel.kind == "number":
            self._number(axes, panel)
            return
        axes.set_title(panel.title, fontsize=9, loc="left", fontweight="bold")
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_formatter(FORMATS.get(panel.unit, ScalarFormatter(useOffset=False)))
        axes.set_xlim(0, self.end - self.start)
        axes.set_xlabel("seconds", fontsize=6, labelpad=0)
        axes.grid(alpha=0.3)
        {"lines": self._lines, "stacked": self._stacked, "heatmap": self._heatmap}[panel.kind](axes, panel)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=6, loc="best", framealpha=0.6)
        elif panel.kind != "heatmap":
            axes.set_yticks([])
            axes.text(0.5, 0.5, f"empty: {panel.absent}", transform=axes.transAxes, ha="center", fontsize=8)

    def _found(self, panel: Panel) -> list[tuple[str, list[float], list[float]]]:
        """Name, seconds and values of every series of the panel that has any."""
        found = [
            (legend(query, series["metric"]), *points(series, self.start))
            for query in panel.queries
            for series in self.prometheus.over(filled_in(query, self.run), self.start, self.end)
        ]
        return [(name, at, values) for name, at, values in found if at]

    def _lines(self, axes: Any, panel: Panel) -> None:
        for name, at, values in self._found(panel):
            axes.plot(at, values, label=name, linewidth=1.2)

    def _stacked(self, axes: Any, panel: Panel) -> None:
        found = self._found(panel)
        times = sorted({at for _, ats, _ in found for at in ats})
        by_time = [dict(zip(at, values, strict=True)) for _, at, values in found]
        stacked = [[series.get(at, 0.0) for at in times] for series in by_time]
        if stacked:
            axes.stackplot(times, *stacked, labels=[name for name, _, _ in found], alpha=0.7)

    def _heatmap(self, axes: Any, panel: Panel) -> None:
        """Prometheus's buckets are cumulative; Grafana takes their differences, and so do we."""
        found = self.prometheus.over(filled_in(panel.queries[0], self.run), self.start, self.end)
        series = sorted(found, key=lambda each: float(each["metric"]["le"]))
        times = sorted({float(at) for each in series for at, _ in each["values"]})
        below = [0.0] * len(times)
        rows = []
        for each in series:
            values = {float(at): float(value) for at, value in each["values"]}
            upto = [values.get(at, 0.0) for at in times]
            rows.append([max(0.0, high - low) for high, low in zip(upto, below, strict=True)])
            below = upto
        used = max((number for number, row in enumerate(rows) if any(row)), default=0) + 2
        edges = [at - self.start for at in times] + [times[-1] - self.start + 1]
        axes.pcolormesh(edges, range(used + 1), rows[:used], cmap="Blues")
        axes.set_yticks([number + 0.5 for number in range(used)], [each["metric"]["le"] for each in series[:used]])

    def _number(self, axes: Any, panel: Panel) -> None:
        axes.set_axis_off()
        said = [
            f"{values[-1]:.1%}" if panel.unit == "percentunit" else f"{values[-1]:.4g}"
            for _, _, values in self._found(panel)
        ]
        axes.text(0.5, 0.8, panel.title, ha="center", va="center", fontsize=9, fontweight="bold")
        axes.text(0.5, 0.4, " / ".join(said) or "–", ha="center", va="center", fontsize=18)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that the pictures go to")
    options, words = parser.parse_known_args()
    settings = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Prometheus(Path(folder) / "prometheus") as prometheus:
        began = time.time()
        process = start_run(Path(folder), NAME, prometheus.targets, settings)
        if process.wait(RUN_LIMIT_S) != 0:
            raise SystemExit((Path(folder) / f"{NAME}.log").read_text())
        end = time.time()
        (first,) = prometheus.over(f'min_over_time(sparring_steps_total{{run="{NAME}"}}[1s]) > 0', began, end)
        picture = Picture(prometheus, NAME, float(first["values"][0][0]) - 2, float(first["values"][-1][0]))
        for dashboard in DASHBOARDS:
            path = options.out / f"{dashboard.uid}.png"
            picture.draw(dashboard, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
