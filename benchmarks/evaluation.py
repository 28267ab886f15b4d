"""How an evaluation by workers scales: tickets, journal and Ray are real, the attacks are timed waits.

    python -m benchmarks.evaluation [--devices 1 2 4 8 16] [--seconds 120] [--kill]

The waits are those of AutoAttack's four attacks in their ratio, a constant part of a tenth for each batch of BATCH
examples; half of the examples are broken, most of them by the first attack. Speed-up is the waits of all tickets by one
device over the time that the devices took; the start of Ray and of the workers is left out. --kill: workers are killed
meanwhile, and it is counted whether every example has one verdict.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import header, machine, row
from sparring.config import Config, from_tree
from sparring.data import Sample
from sparring.data.wrapping import wrap
from sparring.engines.ray.actors import tree_of
from sparring.engines.ray.judges import RayJudges, Weights, ray_judges
from sparring.evaluation.journal import Journal
from sparring.evaluation.judging import Judgement, Mode, judge
from sparring.evaluation.panels import Progress, Struck
from sparring.evaluation.tickets import Ticket
from sparring.models import build

# Forward and backward passes of a batch, a backward one counted as two forward ones, of the standard version.
PASSES = {"apgd-ce": 300, "apgd-t": 2700, "fab-t": 2700, "square": 5000}
BROKEN = {"apgd-ce": 0.42, "apgd-t": 0.06, "fab-t": 0.01, "square": 0.01}
EXAMPLES, BATCH, CONSTANT = 10_000, 50, 0.1


@dataclass(frozen=True)
class Waits:
    """A panel whose attacks wait. per_pass: seconds of a pass of BATCH examples."""

    per_pass: float
    regroups = True
    by_loss = of_one_pass = False
    doubtful = None
    complete = False
    description = "timed waits"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(PASSES)

    @property
    def identity(self) -> dict[str, Any]:
        return {"per_pass": self.per_pass}

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        return []

    def seconds(self, name: str, examples: int) -> float:
        return PASSES[name] * self.per_pass * (CONSTANT + (1 - CONSTANT) * examples / BATCH)

    def strike(
        self, name: str, model: nn.Module, x: Tensor, y: Tensor, first: int, progress: Progress | None
    ) -> Struck:
        time.sleep(self.seconds(name, len(y)))
        drawn, none = x.flatten(1)[:, 0], torch.zeros_like(y, dtype=torch.bool)
        names = list(PASSES)
        low = sum(BROKEN[before] for before in names[: names.index(name)])
        correct = (drawn < low) | (drawn >= low + BROKEN[name])
        return Struck(correct, x, drawn, torch.full_like(y, PASSES[name]), none, none, none)


class Listening:
    """Knows how many workers work."""

    workers = 0

    def within(self, sentence: str) -> None: ...

    def working(self, workers: int, deaths: int) -> None:
        self.workers = workers


@dataclass(frozen=True)
class Pause:
    """Work that lets the other workers start."""

    seconds: float

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Progress | None) -> int:
        time.sleep(self.seconds)
        return os.getpid()


def examples(network: nn.Module) -> Sample:
    """Images whose first pixel says what breaks them; all are right without an attack."""
    images = torch.rand(EXAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = network.eval()(images).argmax(1)
    return Sample(wrap((images, labels), "examples", 10), None)


def started(judges: RayJudges, sample: Sample) -> list[int]:
    """Wait until all workers work; their process ids."""
    listening, pids = Listening(), set[int]()
    while listening.workers < judges.count or len(pids) < judges.count:
        tickets = [Ticket(number, (0,), Pause(0.2)) for number in range(2 * judges.count)]
        pids |= {pid for _, pid in judges.results(sample, tickets, listening)}
    return sorted(pids)


def killing(pids: list[int], every_s: float, ended: threading.Event) -> int:
    """Kill one worker after the other, each once."""
    killed = 0
    for pid in random.Random(0).sample(pids, len(pids) - 1):
        if ended.wait(every_s):
            break
        os.kill(pid, signal.SIGKILL)
        killed += 1
    return killed


def measured(devices: int, mode: Mode, per_pass: float, kill: bool) -> dict[str, Any]:
    """Seconds, those of the waits, and what became of the verdicts."""
    config: Config = from_tree({"workers": {"count": devices, "threads": 1}, "metrics": {"enabled": False}})
    network = build(config.model, (1, 8, 8), 10, config.train.seed)
    sample, panel, killed = examples(network), Waits(per_pass), list[int]()
    weights = Weights(tree_of(config), (1, 8, 8), 10, network.state_dict())
    with tempfile.TemporaryDirectory() as folder, ray_judges(config, [weights], {}) as judges:
        journal, ended = Journal(Path(folder), "waits", {}), threading.Event()
        pids = started(judges, sample)
        killer = threading.Thread(target=lambda: killed.append(killing(pids, 2.0, ended)))
        if kill:
            killer.start()
        with journal.owned():
            journal.begin()
            began = time.monotonic()
            found = judge(judges, sample, panel, batch_size=BATCH, mode=mode, journal=journal)
            took = time.monotonic() - began
        ended.set()
        if kill:
            killer.join()
        return {"seconds": took, "waited": waited(panel, journal), "entries": len(journal.entries())} | {
            "killed": sum(killed),
            **verdicts(found, journal),
        }


def waited(panel: Waits, journal: Journal) -> float:
    """Seconds that one device would have waited for these tickets."""
    return sum(panel.seconds(entry.attack, len(entry.verdicts)) for entry in journal.entries())


def verdicts(found: Judgement, journal: Journal) -> dict[str, int]:
    """How many examples have no verdict of an attack that they need, or two of the same."""
    seen = Counter((verdict.example, entry.attack) for entry in journal.entries() for verdict in entry.verdicts)
    names, needed = list(PASSES), 0
    for verdict in found.verdicts.values():
        needed += names.index(verdict.broken_by) + 1 if verdict.broken_by else len(names)
    return {"lost": needed - len(seen), "doubled": sum(count - 1 for count in seen.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=120.0, help="of one device, about")
    parser.add_argument("--modes", nargs="+", default=["fast", "exact"])
    parser.add_argument("--kill", action="store_true", help="kill a worker every two seconds")
    arguments = parser.parse_args()
    per_pass = arguments.seconds / (EXAMPLES / BATCH) / 6400  # about 6,400 of 10,700 passes are left to be made
    print(machine())
    print(header("mode", "devices", "entries", "seconds", "speed-up", "of linear", "killed", "lost", "doubled"))
    for mode in arguments.modes:
        for devices in arguments.devices:
            found = measured(devices, mode, per_pass, arguments.kill)
            speed_up = found["waited"] / found["seconds"]
            shown = f"{found['seconds']:.1f}", f"{speed_up:.2f}", f"{speed_up / devices:.3f}"
            counts = found["killed"], found["lost"], found["doubled"]
            print(row(mode, devices, found["entries"], *shown, *counts), flush=True)


if __name__ == "__main__":
    main()
