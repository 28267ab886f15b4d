"""A run that begins with one worker and is raised to four in mid-run: how soon they serve, and how fast it is then.

    python -m benchmarks.elastic [--seconds 30] [--to 4] [--cores-per-host 4]

The run is that of benchmarks/scaling.py, series 80: attacks of 80 ms and steps of 10 ms are timed waits, F times as
long as if each host had cores of its own, and all else is real. `sparring workers RUN set N` is what raises it; nothing
is restarted.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import scaling
from benchmarks.measure import header, machine, row, write_images
from sparring.commands.control import change_workers
from sparring.commands.train import train
from sparring.config import from_tree
from sparring.observe.state import RunState
from sparring.runs import Run

OF_STEP = 4  # shards a step, as the table of scaling.py has it for four workers


class Raised:
    """Raises the number once there was time to measure the first rate, and stops the run after the second one."""

    def __init__(self, to: int, seconds: float) -> None:
        self.to, self.seconds, self.run = to, seconds, Run(Path())
        self.seen: list[tuple[float, int, int]] = []  # time, shards, workers that have made some
        self.asked = self.served = 0.0

    def on_run(self, run: Run) -> None:
        self.run = run

    def show(self, state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        now, serving = time.monotonic(), sum(beat["shards"] > 0 for beat in workers.values())
        if not serving:
            return
        self.seen.append((now, state.worker_shards + state.trainer_shards, serving))
        if not self.asked and now > self.seen[0][0] + self.seconds:
            self.asked = now
            threading.Thread(target=change_workers, args=(self.run, "set", self.to)).start()
        if self.asked and not self.served and serving == self.to:
            self.served = now
        if self.served and now > self.served + self.seconds:
            self.run.request_stop()

    def rate(self, began: float, ended: float) -> float:
        """Shards a second between two moments."""
        inside = [(moment, shards) for moment, shards, _ in self.seen if began <= moment <= ended]
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the two measurements")
    parser.add_argument("--to", type=int, default=4)
    parser.add_argument("--cores-per-host", type=float, default=4.0)
    options = parser.parse_args()
    slow_down = scaling.slowed(options.cores_per_host, options.to)
    print(f"{machine()}; F = {slow_down:g}\n")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", scaling.EXAMPLES)
        waits = scaling.waits_us("80", scaling.arithmetic_of("80", folder), slow_down)
        tree = scaling.Row("80", 1, waits, 0.0, folder).config().model_dump(mode="json", exclude_none=True)
        tree["train"]["shards_per_step"] = OF_STEP
        raised = Raised(options.to, options.seconds)
        result = train(from_tree(tree), raised.show, raised.on_run)
    before = raised.rate(raised.asked - options.seconds / 2, raised.asked)
    after = raised.rate(raised.served + scaling.SETTLE_S, raised.seen[-1][0])
    print(header("workers", "shards a second", "speed-up", "ideal", "until all serve, s", "dropped"))
    print(row(1, f"{before:.1f}", "", "", "", ""))
    ideal = f"{(options.to + 1) / 2:.1f}"
    took = f"{raised.served - raised.asked:.1f}"
    print(row(options.to, f"{after:.1f}", f"{after / before:.2f}", ideal, took, result.summary["shards_dropped"]))


if __name__ == "__main__":
    main()
