"""The demo: standard and adversarial training on handwritten digits, and what more devices would gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from sparring.commands.calibration import measure
from sparring.commands.evaluate import curves_of_run, evaluate_run
from sparring.commands.report import report_runs
from sparring.commands.train import train
from sparring.commands.verdict import by_devices
from sparring.config import Config
from sparring.data import load
from sparring.errors import SparringError
from sparring.evaluation import Evaluation, attack_for, evaluate
from sparring.machine.threads import cores
from sparring.objectives import Batch
from sparring.observe.progress import Progress
from sparring.observe.report import table
from sparring.queue.messages import Controls, Key
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import produce
from sparring.workers.task import Task

PLAIN_EPOCHS = 10
SYNC_SECONDS = 3.0
DEVICES = (1, 2, 4, 8, 16)
PREDICTION = (
    "The prediction is for a device for each process (a trainer and workers), each as fast as one core here, by the "
    "times that were just measured. How it was checked: with emulated devices it says 9.0 times for 8 workers, "
    "and 8.8 were measured (docs/benchmarks.md). Workers that share a machine's cores gain nothing."
)


@dataclass(frozen=True)
class Demonstration:
    """The result of the demo: the run, its last phase, its summary with two more values.

    table, report: None if it has not finished.
    """

    run: Run
    phase: str
    summary: dict[str, Any]
    table: Table | None
    report: Path | None = None


def run_demo(progress: Callable[[], AbstractContextManager[Progress]], note: Callable[[str], None]) -> Demonstration:
    """Train and evaluate on this machine's cores; under 3 minutes on two.

    Args:
        progress: makes the live view. note: prints one line about the current part.
    """
    config = Config()
    torch.set_num_threads(cores())
    note("1/3 standard training, and the attack on the trained and on the untrained network")
    untrained = _evaluate(config, _learner(config))
    plain = _evaluate(config, train_plainly(config))
    note("2/3 the time of an attack and of a training step on this machine")
    sync_rate = synchronous_rate(config, SYNC_SECONDS)
    experiment = build_experiment(config)
    seconds = by_devices(config, measure(experiment), experiment.plan, DEVICES)
    note(f"3/3 asynchronous adversarial training: {config.workers.count} workers, a queue and a trainer")
    with progress() as live:
        result = train(config, live.update)
    if result.phase != "finished":
        return Demonstration(result.run, result.phase, result.summary, None)
    summary = {
        **result.summary,
        "plain_robust_accuracy": plain.robust_accuracy,
        "speedup_over_sync": result.summary["examples_per_second"] / sync_rate,
        "predicted_seconds_by_devices": seconds,
    }
    result.run.write_json("summary.json", summary)
    note("the report: accuracy by class, ε and attack steps, a gallery of attacked images, charts")
    shown = _table(untrained, plain, summary, result.run)
    return Demonstration(result.run, result.phase, summary, shown, _report(result.run, note))


def _report(run: Run, note: Callable[[str], None]) -> Path | None:
    """The report of the run, with its accuracy by class, ε and steps. A disk that is full costs it, not the demo."""
    try:
        evaluate_run(run, {})
        curves_of_run(run, {})
        return report_runs([run])
    except SparringError as error:
        note(f"there is no report: {error}")
        return None


def train_plainly(config: Config) -> Learner:
    """Standard training: the same network, data and optimizer without attacks."""
    learner = _learner(config)
    for epoch in range(PLAIN_EPOCHS):
        for number in range(learner.plan.shards(0)):
            x, y = learner.examples(Key(epoch, number, 0))
            learner.learn(Batch(x, x, y), epoch)
    return learner


def synchronous_rate(config: Config, seconds: float) -> float:
    """Examples per second of the synchronous loop on all cores, with the same attack and batch size."""
    learner = _learner(config)
    began, examples, number = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - began) < seconds:
        key = Key(0, number % learner.plan.shards(0), 0)
        indices = learner.plan.indices(key.epoch, key.number)
        controls = Controls(config.attack.epsilon)
        shard = produce(Task(key, indices), learner.context, controls, learner.step)
        examples += learner.learn(learner.batch([shard]), key.epoch).examples
        number += 1
    return examples / elapsed


def _learner(config: Config) -> Learner:
    experiment = build_experiment(config)
    return Learner(experiment, torch.device("cpu"))


def _evaluate(config: Config, learner: Learner) -> Evaluation:
    return evaluate(
        learner.model,
        load(config.data, "test"),
        attack_for(learner.experiment.threat, config.evaluation),
        seed=config.train.seed,
    )


def _table(untrained: Evaluation, plain: Evaluation, summary: dict[str, Any], run: Run) -> Table:
    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    attack, samples, seconds = summary["attack"], summary["samples"], summary["predicted_seconds_by_devices"]
    shown = {
        f"accuracy on {samples} test images": "clean / attacked",
        "  before training": f"{share(untrained.clean_accuracy)} / {share(untrained.robust_accuracy)}",
        f"  plain training, {PLAIN_EPOCHS} epochs": f"{share(plain.clean_accuracy)} / {share(plain.robust_accuracy)}",
        "  sparring": f"{share(summary['clean_accuracy'])} / {share(summary['robust_accuracy'])}",
        "attack": attack,
        "staleness, mean / max (bound)": (
            f"{summary['staleness_mean']:.2f} / {summary['staleness_max']} ({summary['max_staleness']}) steps"
        ),
        "shards dropped": summary["shards_dropped"],
        f"training here, {cores()} cores for all": f"{summary['seconds']:.0f} s, {summary['steps']} steps",
        f"predicted on {_listed(seconds)} devices": f"{_listed(f'{each:.0f}' for each in seconds.values())} s",
        "run": run.path,
    }
    return table("Sparring demo: handwritten digits", [{"": name, "value": value} for name, value in shown.items()])


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
