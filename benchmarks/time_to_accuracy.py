"""Time to a robust accuracy by the number of devices, MNIST, one epoch, on the virtual clock.

    python -m benchmarks.time_to_accuracy --data DIR [--devices 1 2 4 8 16 32] [--seeds 3] [--models NAME ...]
        [--out FOLDER] [--records FILE] [--picture FILE.png]

The training of benchmarks.finish (steep): the network of Wong et al., 59,000 images, 128 examples a step, κ = 8, peak
rate 0.008. PGD-40 on 1,000 held-out images. The weights of no row depend on the clock, so there is one real training
for every method and seed: the synchronous loop, which data parallelism (DDP) follows, and a fresh finish of 6 of 8
steps (8 shards of 16 a step). Then the clock alone is run for every number of devices under the time models in
recipes/times: DDP with slices of the 128 examples, and the asynchronous engine with the best split of the devices into
trainers and workers and of the step into at most 32 shards (122 to 134 examples). The times are those of the whole
epoch. With BulletTrain every example has the attack steps that it had in the training, however it is cut into shards.

slow: the last device has a third of the speed; the asynchronous engine has it as a worker or leaves it out. killed: it
dies in the middle of the run; it is a worker there. What is in FOLDER is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from benchmarks.finish import config_of as finish_config
from benchmarks.finish import evaluated
from benchmarks.measure import header, machine, row
from sparring.allocators import Allocation, Candidates
from sparring.allocators.bullettrain import BulletTrain
from sparring.commands.splits import candidates_for, estimated_s, work_of
from sparring.config import Config, VirtualSettings, overridden
from sparring.engines.virtual.clock import Clocked, clocked
from sparring.engines.virtual.hollow import Work
from sparring.engines.virtual.rivals import data_parallel

EXAMPLES, BATCH, ATTACK_STEPS, FINISH, LEASE_S = 59_000, 128, 8, 6, 0.1
MODELS = Path(__file__).parents[1] / "recipes" / "times"
SCENARIOS, SLOW, MOST_SHARDS = ("equal", "slow", "killed"), 1 / 3, 32
METHODS = ("", ", BulletTrain")
SECONDS = [2, 5, 10, 20, 40]  # of the picture's scale
TRAININGS = {"loop": 1, "finish": 8, "loop, BulletTrain": 1, "finish, BulletTrain": 8}  # shards a step
SHORTLIST, PART, WHOLE = 10, slice(200, 260), 4  # splits whose pace is measured, on these steps; of them for all steps
Found = dict[str, Any]


class Case(NamedTuple):
    """method: nothing, or ", BulletTrain"; model: of recipes/times."""

    method: str
    model: str
    scenario: str


class Noted(BulletTrain):
    """BulletTrain that notes the attack steps of every example, in the order of training."""

    steps: ClassVar[list[list[int]]] = []

    def allocate(self, candidates: Candidates) -> Allocation:
        allocation = super().allocate(candidates)
        self.steps.append(allocation.step_counts.tolist())
        return allocation


def training_of(name: str, seed: int, data: Path, out: Path) -> Config:
    """One of TRAININGS."""
    shards = TRAININGS[name]
    changes: Found = {
        "run.name": f"{''.join(filter(str.isalpha, name))}-{shards}-seed{seed}",
        "train.batch_size": BATCH // shards,
        "train.shards_per_step": shards,
        "staleness.finish": FINISH if name.startswith("finish") else "off",
        "allocator.name": "benchmarks.time_to_accuracy:Noted" if "BulletTrain" in name else "none",
    }
    return overridden(finish_config("steep, loop", seed, data, out), changes)


def trained(name: str, seed: int, data: Path, out: Path) -> Found:
    """Accuracies, number of parameters, and the attack steps of every example; read where an earlier call made it."""
    from benchmarks.time_to_accuracy import Noted as Noting  # this module under its name: it runs as __main__
    from sparring.commands.train import train

    config = training_of(name, seed, data, out)
    path = out / f"{config.run.name}.json"
    if not path.exists():
        Noting.steps.clear()
        result = train(config)
        if result.phase != "finished":
            raise SystemExit(f"{result.run.path} was {result.phase}: what it has is no measurement")
        parameters = sum(each.numel() for each in result.load_model().parameters())
        path.write_text(json.dumps({**evaluated(result, config), "parameters": parameters, "steps": Noting.steps}))
    found: Found = json.loads(path.read_text())
    return found


class Bench:
    """Trainings, and their clock by method, time model and scenario."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self.found: dict[tuple[str, int], Found] = {}

    def trained(self, name: str, seed: int) -> Found:
        """See `trained`; kept in memory."""
        if (name, seed) not in self.found:
            self.found[name, seed] = trained(name, seed, self.data, self.out)
        return self.found[name, seed]

    def ddp_s(self, case: Case, devices: int, seed: int) -> float | None:
        """Seconds of data parallelism on so many devices; None: its run ends before."""
        if case.scenario == "killed" and devices > 1:
            return None
        speeds = [1.0] * (devices - 1) + [SLOW] if case.scenario == "slow" else []
        found = self.trained(f"loop{case.method}", seed)
        steps = [cut(counts, devices) for counts in steps_of(found)]
        return data_parallel(self.timed(case, seed), steps, size_bytes=4 * found["parameters"], speeds=speeds)[-1]

    def best_split(self, case: Case, devices: int) -> Config:
        """The fastest split, of those with the best pace, of those that look best."""
        likely = self._likely(case, devices)
        if case.scenario == "slow":
            likely += self._likely(case._replace(scenario="equal"), devices - 1)
        fastest = sorted(likely, key=lambda each: self._pace(case, each))[:WHOLE]
        return min(fastest, key=lambda each: self._clock(case, each, 0).seconds)

    def ours_s(self, case: Case, split: Config, seed: int) -> float:
        """Seconds of the asynchronous engine with a split."""
        split = overridden(split, {"train.seed": seed})
        if case.scenario == "killed":
            dies = {"at_s": self._clock(case, split, seed).seconds / 2, "worker": split.workers.count, "what": "dies"}
            split = overridden(split, {"virtual.events": [dies]})
        return self._clock(case, split, seed).seconds

    def timed(self, case: Case, seed: int) -> Config:
        """The recipe with a fresh finish and the times of the case."""
        changes = {"queue.lease_s": LEASE_S, "allocator.name": "bullettrain" if case.method else "none"}
        config = overridden(training_of("finish", seed, self.data, self.out), changes)
        times = VirtualSettings(times=MODELS / f"{case.model}.toml")
        return config.model_copy(update={"virtual": times})

    def _likely(self, case: Case, devices: int) -> list[Config]:
        size_bytes = 4 * self.trained("finish", 0)["parameters"]
        return sorted(self._splits(case, devices), key=lambda each: estimated_s(each, size_bytes))[:SHORTLIST]

    def _splits(self, case: Case, devices: int) -> Iterator[Config]:
        for split in candidates_for(self.timed(case, 0), devices):
            workers = split.workers.count
            if split.train.shards_per_step <= MOST_SHARDS and (workers or case.scenario == "equal"):
                speeds = (*[1.0] * (workers - 1), SLOW) if case.scenario == "slow" else ()
                yield split.model_copy(update={"virtual": split.virtual.model_copy(update={"speeds": speeds})})

    def _pace(self, case: Case, split: Config) -> float:
        """Seconds of an example in the second half of a part of the run with seed 0."""
        ends = self._clock(case, split, 0, PART).ends
        steps = len(ends) // 2
        return (ends[-1] - ends[-1 - steps]) / (steps * split.train.shards_per_step * split.train.batch_size)

    def _clock(self, case: Case, split: Config, seed: int, part: slice = slice(None)) -> Clocked:
        found = self.trained(f"finish{case.method}", seed)
        shards, size = split.train.shards_per_step, split.train.batch_size
        steps = steps_of(found, shards * size)[part]
        works = [work_of(counts[first : first + size]) for counts in steps for first in range(0, len(counts), size)]
        return clocked(split, works, 4 * found["parameters"])


def steps_of(found: Found, size: int = BATCH) -> list[list[int]]:
    """The attack steps of every example of every training step of so many examples."""
    counts = list(chain.from_iterable(found["steps"]))[-EXAMPLES:]  # without the trial before the run
    counts = counts or [ATTACK_STEPS] * EXAMPLES
    return [counts[first : first + size] for first in range(0, len(counts), size)]


def cut(counts: Sequence[int], parts: int) -> list[Work]:
    """A batch of examples with so many attack steps each, in parts as even as can be."""
    ends = [len(counts) * (part + 1) // parts for part in range(parts)]
    return [work_of(counts[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def line_of(bench: Bench, case: Case, devices: int, seeds: int) -> Found:
    """Seconds of both with every seed, and the split."""
    split = bench.best_split(case, devices)
    return {
        **case._asdict(),
        "devices": devices,
        "trainers": split.trainer.count,
        "workers": split.workers.count,
        "shards": split.train.shards_per_step,
        "ddp": [bench.ddp_s(case, devices, seed) for seed in range(seeds)],
        "ours": [bench.ours_s(case, split, seed) for seed in range(seeds)],
    }


def lines_of(bench: Bench, models: Sequence[str], devices: Sequence[int], seeds: int) -> Iterator[Found]:
    """All cases; with one device nothing is slow or dies. Without BulletTrain seeds differ in jitter alone, and one is
    enough; with it devices are equal."""
    for method, model, scenario in product(METHODS, models, SCENARIOS):
        for count in devices:
            if scenario == "equal" or (count > 1 and not method):
                yield _kept(bench, Case(method, model, scenario), count, seeds if method else 1)


def _kept(bench: Bench, case: Case, devices: int, seeds: int) -> Found:
    """A line, read where an earlier call made it."""
    name = "-".join(filter(None, [*case, str(devices), str(seeds)])).replace(", ", "")
    path = bench.out / "clock" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(line_of(bench, case, devices, seeds)))
    found: Found = json.loads(path.read_text())
    return found


def table(lines: Sequence[Found]) -> str:
    """Markdown. Speed-ups are over the synchronous loop on one device with the same times and without BulletTrain."""
    alone = {line["model"]: line["ddp"] for line in lines if line["devices"] == 1 and not line["method"]}
    rows = [header("times", "devices", "method", "D", "DDP, s", "speed-up", "ours, s", "speed-up", "of D", "split")]
    for line in lines:
        loop_s, ours_s = statistics.mean(alone[line["model"]]), statistics.mean(line["ours"])
        ddp_s = None if None in line["ddp"] else statistics.mean(line["ddp"])
        rows.append(
            row(
                line["model"],
                line["scenario"],
                line["method"].removeprefix(", ") or "PGD",
                line["devices"],
                "ends" if ddp_s is None else f"{ddp_s:.2f}",
                "-" if ddp_s is None else f"{loop_s / ddp_s:.1f}",
                f"{ours_s:.2f}",
                f"{loop_s / ours_s:.1f}",
                f"{loop_s / ours_s / line['devices']:.2f}",
                f"{line['trainers']} + {line['workers']}, {line['shards']} shards",
            )
        )
    return "\n".join(rows)


def accuracies(bench: Bench, seeds: int) -> str:
    """What each training comes to."""
    rows = [header("training", "PGD-40, each seed", "mean")]
    for name in TRAININGS:
        values = [100 * bench.trained(name, seed)["robust"] for seed in range(seeds)]
        rows.append(row(name, ", ".join(f"{value:.1f}" for value in values), f"{statistics.mean(values):.1f}"))
    return "\n".join(rows)


def plot(lines: Sequence[Found], path: Path) -> None:
    """Time against equal devices, both logarithmic, with the ideal line; one panel for each time model."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(line["model"] for line in lines))
    figure = Figure(figsize=(4 * len(models), 4), layout="constrained")
    for axis, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for number, method in enumerate(METHODS):
            wanted = {"model": model, "method": method, "scenario": "equal"}
            found = [line for line in lines if wanted.items() <= line.items()]
            devices, name = [line["devices"] for line in found], method.removeprefix(", ") or "PGD"
            for style, who, called in (("o-", "ours", "asynchronous"), ("x--", "ddp", "DDP")):
                seconds = [statistics.mean(line[who]) for line in found]
                axis.plot(devices, seconds, style, color=f"C{number}", label=f"{called}, {name}")
            if not method:
                first_s = statistics.mean(found[0]["ddp"]) * devices[0]
                axis.plot(devices, [first_s / count for count in devices], ":", color="grey", label="ideal, PGD")
        axis.set(title=model, xscale="log", yscale="log", xlabel="devices", ylabel="virtual seconds of the epoch")
        axis.set_xticks(devices, map(str, devices))
        axis.set_yticks(SECONDS, map(str, SECONDS))
        for set_ticks in (axis.set_xticks, axis.set_yticks):
            set_ticks([], minor=True)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_accuracy"))
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--models", nargs="+", default=[path.stem for path in sorted(MODELS.glob("*.toml"))])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", type=Path, help="Write the times to this file, a line of JSON for each case.")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    bench = Bench(options.data, options.out)
    print(f"{machine()}\n", flush=True)
    print(accuracies(bench, options.seeds), flush=True)
    lines = list(lines_of(bench, options.models, options.devices, options.seeds))
    print(f"\n{table(lines)}")
    if options.records is not None:
        options.records.write_text("\n".join(map(json.dumps, lines)) + "\n")
    if options.picture is not None:
        plot(lines, options.picture)


if __name__ == "__main__":
    main()
