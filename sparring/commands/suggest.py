"""`sparring suggest`: short trainings on this machine, judged on held-out training examples, and a recipe from them.

Optimizer and rate first, then the batch, then attack steps and warm-up of ε: trials of one round take equal time, as
many at once as there are cores (on a GPU one after the other). The test set is not looked at.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch

from sparring.attacks import Attack
from sparring.commands.calibration import Measured, measure
from sparring.commands.checks import weaknesses
from sparring.commands.proposals import (
    Changes,
    Round,
    Trial,
    attacks,
    batches,
    pick,
    rates,
    recipe_text,
    shown,
    sized,
    wrapped,
)
from sparring.commands.train import train
from sparring.commands.verdict import best_of, choices, sentence
from sparring.config import Config, from_tree, overridden
from sparring.errors import UsageError
from sparring.evaluation.robustness import evaluate
from sparring.machine.threads import cores
from sparring.observe.findings import findings
from sparring.observe.state import RunState
from sparring.trainer.evaluating import PGD_STEPS
from sparring.trainer.experiment import Experiment, build_experiment

HELDOUT, HELDOUT_SHARE = 1000, 0.1
TRIALS = 13  # of all rounds together
OVERHEAD_S = 1.5  # of a trial: reading the data, the evaluation
LEAST_S = 0.5  # of a trial's training
Note = Callable[[str], None]


@dataclass(frozen=True)
class Suggestion:
    """The recipe as text, its settings, the rounds that led to it, and the verdict on the engine.

    warnings: what may make the figures of the trial that it stands on wrong; comments of the recipe have them too.
    """

    text: str
    config: Config
    rounds: tuple[Round, ...]
    verdict: str
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rounds = [each.as_dict() for each in self.rounds]
        return {"recipe": self.text, "verdict": self.verdict, "warnings": list(self.warnings), "rounds": rounds}


def suggest(config: Config, minutes: float, train_minutes: float, note: Note = lambda line: None) -> Suggestion:
    """Propose rate, batch, attack steps, warm-up of ε, engine and epochs for a training of `train_minutes`.

    Args:
        config: what is given: data, model, attack and objective. Batch, attack steps and warm-up are where the search
            begins; optimizer, rate and epochs are replaced. minutes: length of the trials, all together.

    Raises:
        UsageError: the method has no attack on images, or settings that trials cannot have.
    """
    require_suggestible(config)
    base = overridden(config, {"engine": "sync", "data.holdout": 0})
    experiment = build_experiment(base)
    probe = Probe(base, experiment, 60 * minutes, note)
    with _pool() as pool:
        rounds = _rounds(probe, pool)
    chosen = overridden(config, dict(rounds[-1].kept.changes))
    chosen, verdict, epochs = with_engine(chosen, train_minutes)
    reasons = {name: "" for each in rounds for name in each.names}
    reasons |= {each.names[0]: each.reason for each in rounds} | {
        "engine": verdict,
        "train.epochs": f"{epochs}: about {train_minutes:g} minutes of training at that speed.",
    }
    warnings = (*experiment.data_summary.warnings, *weaknesses(experiment), *rounds[-1].kept.warnings)
    warnings = tuple(dict.fromkeys(warnings))
    text = recipe_text(_head(minutes, rounds, warnings), chosen, reasons)
    return Suggestion(text, chosen, tuple(rounds), verdict, warnings)


def require_suggestible(config: Config) -> None:
    """Refuse what the trials cannot vary.

    Raises:
        UsageError: with the setting and its value.
    """
    if config.objective.name == "augmix":
        raise UsageError("objective.name = 'augmix': it has no ε and no attack steps to suggest.")
    if config.yopo.passes:
        raise UsageError(f"yopo.passes = {config.yopo.passes}: trials are made with 0. Unset it.")
    for name, value in (
        ("train.replays", config.train.replays),
        ("train.shards_per_step", config.train.shards_per_step),
    ):
        if value != 1:
            raise UsageError(f"{name} = {value}: trials are made with 1. Unset it.")
    if config.pruning.name != "none":
        raise UsageError(f"pruning.name = {config.pruning.name!r}: trials are too short for it. Unset it.")


class Probe:
    """Makes trials of equal length; `trial_s`: seconds of training in each."""

    def __init__(self, config: Config, experiment: Experiment, seconds: float, note: Note) -> None:
        total = len(experiment.training)
        self.config, self.note = config, note
        self.heldout = min(HELDOUT, max(1, int(HELDOUT_SHARE * total)))
        self.dataset = total - self.heldout
        self.measured: Measured = measure(experiment)
        self.at_once = 1 if torch.cuda.is_available() else cores()
        in_turn = -(-TRIALS // self.at_once)
        self.trial_s = max(LEAST_S, seconds / in_turn - OVERHEAD_S)

    def trials(self, pool: Executor, made: Changes, candidates: Sequence[Changes]) -> list[Trial]:
        """One for each candidate, on top of the changes that were made already."""
        merged = [{**made, **candidate} for candidate in candidates]
        runs = [pool.submit(_trial, self._tree(changes), changes) for changes in merged]
        found = []
        for run in runs:
            found.append(run.result())
            self.note(_said(found[-1]))
        return found

    def _tree(self, changes: Changes) -> dict[str, Any]:
        config = overridden(self.config, dict(changes))
        examples = int(self.trial_s / self._example_s(config))
        run = sized(config, examples, self.heldout, self.dataset)
        return overridden(run, {"data.holdout": self.heldout}).model_dump(mode="json", exclude_none=True)

    def _example_s(self, config: Config) -> float:
        """Seconds that an example takes one process: its attack by the number of steps, and its part of a step."""
        steps = config.attack.steps / self.config.attack.steps
        return (steps * self.measured.attack_one_s + self.measured.step_one_s) / self.config.train.batch_size


def with_engine(config: Config, train_minutes: float) -> tuple[Config, str, int]:
    """The settings with the fastest engine on this machine and as many epochs as fit; the verdict; the epochs."""
    whole = overridden(config, {"engine": "ray", "train.epochs": 1})
    experiment = build_experiment(whole)
    measured, plan = measure(experiment), experiment.plan
    found = choices(whole, measured, plan)
    per_epoch = {choice.name: sum(plan.shards_by_epoch) / choice.shards_per_second for choice in found}
    fastest = min(per_epoch.values())
    epochs = max(1, round(60 * train_minutes / fastest))
    full = overridden(whole, {"train.epochs": epochs})
    found = choices(full, measured, build_experiment(full).plan)
    best = best_of(found)
    engine: dict[str, Any] = {"engine": best.engine}
    if best.engine == "ray":
        engine["workers.count"] = best.processes
    if best.engine == "ddp":
        batch = max(2, config.train.batch_size // best.processes)
        engine |= {"ddp.ranks": best.processes, "train.shards_per_step": best.processes, "train.batch_size": batch}
    return overridden(full, engine), sentence(found), epochs


def _rounds(probe: Probe, pool: Executor) -> list[Round]:
    first = probe.trials(pool, {}, rates())
    rounds = [Round(("optimizer.lr", "optimizer.name"), tuple(first), pick(None, first))]
    for names, propose in (
        (("train.batch_size", "optimizer.lr"), batches),  # in this order: the reason stands at the first
        (("attack.steps", "attack.warmup"), attacks),
    ):
        kept = rounds[-1].kept
        here = overridden(probe.config, dict(kept.changes))
        values = {name: _setting(here, name) for name in names}
        incumbent = _with(kept, values)
        trials = probe.trials(pool, incumbent.changes, propose(here))
        rounds.append(Round(names, (incumbent, *trials), pick(incumbent, trials)))
    return rounds


def _with(trial: Trial, values: Changes) -> Trial:
    return replace(trial, changes={**trial.changes, **values})


def _setting(config: Config, name: str) -> Any:
    group, _, own = name.partition(".")
    return getattr(getattr(config, group), own)


def _trial(tree: dict[str, Any], changes: Changes) -> Trial:
    """Train, and attack the held-out examples; in a process of its own where there is no GPU."""
    with tempfile.TemporaryDirectory(prefix="sparring-suggest-") as folder:
        few: dict[str, Any] = {"run.root": folder, "metrics.enabled": False, "checkpoint.every_steps": 10**9}
        few |= {} if torch.cuda.is_available() else {"trainer.threads": 1}
        few |= {"evaluation.attack": "pgd", "evaluation.samples": 2, "evaluation.steps": 1, "evaluation.restarts": 1}
        config = overridden(from_tree({**tree, "evaluation": {}}), few)
        result = train(config, progress=False)
        experiment = build_experiment(config)
        attack = experiment.attack
        if not isinstance(attack, Attack):
            raise UsageError(
                f"attack.name = {config.attack.name!r} makes views, not perturbations: nothing to compare."
            )
        found = evaluate(result.load_model(), experiment.heldout, attack.evaluator(PGD_STEPS))
        of_training = findings(RunState.from_dict(result.run.read_object("state.json")))
    summary = result.summary
    return Trial(
        changes,
        found.robust_accuracy,
        found.clean_accuracy,
        found.samples,
        summary["steps"],
        summary["seconds"],
        (*of_training, *found.warnings),
    )


@contextmanager
def _pool() -> Iterator[Executor]:
    """A process for each core, with a thread each, whose warnings are not shown; on a GPU this process."""
    if torch.cuda.is_available() or cores() == 1:
        with ThreadPoolExecutor(1) as here:
            yield here
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(cores(), context, initializer=_be_one_of_many) as pool:
        yield pool


def _be_one_of_many() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def _head(minutes: float, rounds: Sequence[Round], warnings: Sequence[str]) -> list[str]:
    trials = sum(len(each.trials) for each in rounds) - (len(rounds) - 1)
    kept = rounds[-1].kept
    return [
        f"Suggested by `sparring suggest --minutes {minutes:g}` on this machine: {trials} short trainings, one seed",
        f"each, judged by PGD-{PGD_STEPS} on {kept.samples} held-out training examples. The best reached "
        f"{100 * kept.robust:.1f} % after {kept.steps} steps.",
        "A long training may prefer other settings, above all a lower rate and more attack steps.",
        *(line for warning in warnings for line in wrapped(f"Warning: {warning}")),
    ]


def _said(trial: Trial) -> str:
    """Such as optimizer.lr 0.1: 40.3 % robust, 90 steps; 2 warnings."""
    warned = f"; {len(trial.warnings)} warning{'s' * (len(trial.warnings) > 1)}" if trial.warnings else ""
    return f"{_named(trial.changes)}: {100 * trial.robust:.1f} % robust, {trial.steps} steps{warned}"


def _named(changes: Changes) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in changes.items())
