"""Make steps of a run again in one process and compare the weights on the way."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sparring.commands.checks import check
from sparring.commands.train import session_here, train_here
from sparring.config import Config, EvaluationSettings, config_of, overridden, slots_of, to_toml, trainer_threads
from sparring.engines.recorded import MadeBy, oldest_needed, steps_of
from sparring.engines.recorded import run as make_recorded
from sparring.errors import SparringError, UsageError, file_failure
from sparring.machine.signals import stopping_on_signals
from sparring.observe.state import RunState
from sparring.runs import Run, lines_of, open_run
from sparring.trainer.checkpoints import MODEL, at_step, damage, planned, step_of, steps_in
from sparring.trainer.experiment import methods_of


@dataclass(frozen=True)
class Compared:
    """The weights at a checkpoint of the run: the largest difference of an entry from those made again."""

    step: int
    largest_difference: float

    @property
    def same(self) -> bool:
        """Whether all bits are the same."""
        return self.largest_difference == 0


@dataclass(frozen=True)
class Replay:
    """What was made again: from the checkpoint of step `began` (0: from the beginning) to step `ended`.

    steps: the metrics of each step, with the loss that the run has recorded (None: it recorded no such step).
    """

    began: int
    ended: int
    compared: list[Compared]
    steps: list[dict[str, Any]]

    @property
    def same(self) -> bool | None:
        """Whether all compared weights are the same; None: there was no checkpoint to compare with."""
        return all(each.same for each in self.compared) if self.compared else None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        compared = [{"step": each.step, "largest_difference": each.largest_difference} for each in self.compared]
        return {"began": self.began, "ended": self.ended, "same": self.same, "compared": compared, "steps": self.steps}


def replay(
    path: str | Path,
    first: int = 0,
    until: int | None = None,
    report: Callable[[RunState], None] = lambda state: None,
) -> Replay:
    """Make the steps after `first` up to `until` (by default the newest checkpoint) again, from the nearest checkpoint.

    The run's folder is only read. The bits agree on the same kind of device with the same numbers of threads.

    Raises:
        UsageError: the weights depended on what is not recorded, or there are no such steps.
        SparringError: a checkpoint to compare with, or the record of a step, is damaged.
    """
    run = open_run(Path(path))
    config = config_of(run)
    _require_one_trainer(config)
    recorded = None if is_fixed(config) else _recorded(run, config)
    made = [step_of(each) for each in steps_in(run.checkpoints)]
    until = until if until is not None else (made[-1] if made else 0)
    if not 0 <= first < until:
        raise UsageError(f"--from {first} --until {until}: steps from 0 up to a larger one are needed.")
    began = max((step for step in made if step <= first and _suffices(recorded, step)), default=0)
    if recorded is not None:
        _require_records(recorded, began + 1, until)
    phases = _phases(run, config, began, until)
    with tempfile.TemporaryDirectory(prefix="sparring-replay-") as folder:
        again, ended = _copy(run, Path(folder) / "replay", began), began
        for phase, end in phases:
            ended = _made_again(phase, again, end, recorded, report)
            if ended < end:
                break
        steps = [line for line in _lines(again, run) if first < line["step"] <= ended]
        compared = list(_compared(run, again, [step for step in made if began < step <= ended]))
        return Replay(began, ended, compared, steps)


def _phases(run: Run, config: Config, began: int, until: int) -> list[tuple[Config, int]]:
    """The settings of each part of the steps after `began`, and the step with which it ends: a resume may have made
    the run longer, and schedules span the length that the run then had.

    Raises:
        SparringError: phases.json is damaged.
    """
    phases, end = list[tuple[Config, int]](), until
    try:
        for phase in reversed(run.read_json("phases.json") or []):
            step, before = phase["from_step"], {name: old for name, (old, _) in phase["changes"].items()}
            if began < end and step < end:
                phases.append((config, end))
            config, end = overridden(config, before), min(end, step)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise SparringError(
            f"{run.path / 'phases.json'} is damaged ({error}), so it cannot be told how long the run was to be at each "
            f"step. Put back a copy."
        ) from error
    return [each for each in reversed([*phases, (config, end)]) if each[1] > began]


def _made_again(
    config: Config,
    again: Run,
    end: int,
    recorded: Mapping[int, list[MadeBy]] | None,
    report: Callable[[RunState], None],
) -> int:
    """Go on from the newest checkpoint in the folder `again` to step `end`, with these settings of the run; returns
    the step that was reached."""
    settings = _in_one_process(config, again, end)
    again.write_config(to_toml(settings))
    torch.set_num_threads(trainer_threads(config))
    # The warnings would be about another engine's settings.
    experiment = check(settings, starts=not steps_in(again.checkpoints), log_warnings=False)
    session = session_here(experiment, again, report)
    with stopping_on_signals(session.ask_to_stop):
        if recorded is None:
            train_here(session, experiment)
        else:
            session.restore()
            session.start_clock()
            make_recorded(session, experiment, recorded, config)
    return session.learner.step


def is_fixed(config: Config) -> bool:
    """Whether the weights are a function of recipe and seed, and not of timing."""
    return config.staleness.finish != "off" or config.engine in ("sync", "simulated")


def _require_one_trainer(config: Config) -> None:
    if config.trainer.count > 1:
        raise UsageError(
            f"trainer.count = {config.trainer.count}: several trainers sum up gradients in another order than one "
            f"process does, so the bits could not be compared. Only runs with trainer.count = 1 can be made again."
        )


def _recorded(run: Run, config: Config) -> dict[int, list[MadeBy]]:
    """What steps.jsonl tells of each step of a run whose weights depended on timing.

    Raises:
        UsageError: that is not all that its weights depended on.
    """
    if config.engine not in ("ray", "virtual"):
        raise UsageError(
            f"engine = {config.engine!r}: only runs of ray, virtual, sync and simulated can be made again."
        )
    state, slots = run.read_object("state.json"), slots_of(config, methods_of(config).attack.makes_views)
    unrecorded = {
        "allocator.slots": slots,
        "attack.start": config.attack.start if config.attack.start == "last" else None,
        "staleness.refresh": config.staleness.refresh if config.staleness.refresh == "auto" else None,
        "model.precision": config.model.precision if config.model.precision == "bf16" else None,
        "guard.staleness": config.guard.staleness,
        "rollbacks": state.get("rollbacks", 0) + state.get("overfittings", 0),
    }
    for name, value in unrecorded.items():
        if value:
            raise UsageError(
                f"engine = {config.engine!r} with staleness.finish = 'off' and {name} = {value}: what that did "
                f"depended on timing and is not recorded, so the run cannot be made again. Train with "
                f"staleness.finish, or with engine = 'sync'."
            )
    return steps_of(lines_of(run.history))


def _require_records(recorded: Mapping[int, list[MadeBy]], first: int, last: int) -> None:
    missing = next((step for step in range(first, last + 1) if step not in recorded), None)
    if missing is not None:
        newest = max(recorded, default=0)
        reason = "is damaged" if missing < newest else f"ends with step {newest}"
        raise SparringError(
            f"steps.jsonl has no line for step {missing} of --until {last}: it {reason}. Only recorded steps can be "
            f"made again."
        )


def _suffices(recorded: Mapping[int, list[MadeBy]] | None, step: int) -> bool:
    """Whether the steps after a checkpoint can be made from it: recorded attacks may need older weights."""
    return recorded is None or oldest_needed(recorded, step) >= step


def _in_one_process(config: Config, again: Run, until: int) -> Config:
    """The settings that go on in the folder `again`, in one process."""
    rolling = {f"evaluation.{name}": value for name, value in EvaluationSettings() if name.startswith("rolling")}
    changes: dict[str, Any] = {
        **rolling,
        "engine": "simulated" if config.engine == "simulated" else "sync",
        "train.max_steps": until,
        "metrics.every_steps": 1,
        "metrics.trackers": [],
        "checkpoint.keep": 1000,
    }
    return overridden(config, {**changes, "run.root": str(again.path.parent), "run.name": again.path.name})


def _copy(run: Run, folder: Path, began: int) -> Run:
    """A folder with what the run had at step `began`."""
    again = Run(folder)
    again.checkpoints.mkdir(parents=True)
    if run.initial.is_dir():
        shutil.copytree(run.initial, again.initial)
    if began:
        path = at_step(run.checkpoints, began)
        for each in {path, planned(path) or path}:  # a rollback returns to that
            if each.is_dir():
                shutil.copytree(each, again.checkpoints / each.name)
        if run.kept.exists():
            shutil.copy(run.kept, again.kept)
    return again


def _compared(run: Run, again: Run, steps: list[int]) -> Iterator[Compared]:
    for step in steps:
        name = f"step-{step:09d}"
        if not (again.checkpoints / name).is_dir():
            continue
        try:
            before, now = (_weights(each.checkpoints / name) for each in (run, again))
        except SparringError:
            if (run.checkpoints / name).is_dir():
                raise
            continue  # the run trains, and keeps newer ones now
        if {key: each.shape for key, each in before.items()} != {key: each.shape for key, each in now.items()}:
            raise SparringError(
                f"checkpoint {run.checkpoints / name} holds other tensors than the run's network: it is damaged, or of "
                f"another run. Put back a copy of it."
            )
        differences = [(before[key].double() - now[key].double()).abs().max() for key in before if before[key].numel()]
        yield Compared(step, float(torch.stack(differences).max()))


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    if reason := damage(checkpoint):
        raise SparringError(
            f"checkpoint {checkpoint} is damaged ({reason}), so it cannot be compared with. Put back a copy of it, or "
            f"choose other steps by --from and --until."
        )
    try:
        weights: dict[str, torch.Tensor] = load_file(checkpoint / MODEL)
    except (OSError, SafetensorError) as error:
        raise file_failure(error, checkpoint / MODEL) from error
    return weights


def _lines(again: Run, run: Run) -> Iterator[dict[str, Any]]:
    """What every step was like, beside the loss that the run has recorded."""
    recorded = {line.get("step"): line.get("loss") for line in lines_of(run.metrics)}
    for line in {line["step"]: line for line in lines_of(again.metrics)}.values():
        shown = {name: line[name] for name in ("step", "epoch", "loss", "train_robust_accuracy", "epsilon")}
        yield {**shown, "recorded_loss": recorded.get(line["step"])}
