"""One call trains a robust model: `train(config)`. The command line uses the same functions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparring import plugins
from sparring.commands.checks import (
    LENGTH,
    check,
    has_begun,
    require_loadable,
    require_new_folder,
    require_resumable,
    unused,
    weaknesses,
)
from sparring.commands.evaluate import load_model
from sparring.commands.live import live_objects, recorded, require_passed
from sparring.commands.sources import record_sources, sources_of
from sparring.commands.trials import doubts_of
from sparring.config import (
    Config,
    changes_of,
    check_staleness,
    config_of,
    differences,
    load,
    new_run,
    overridden,
    to_toml,
    trainer_threads,
    with_absolute_paths,
)
from sparring.data.summary import DataSummary
from sparring.engines import Outcome
from sparring.errors import RollBack, SparringError, UsageError, file_failure, note_run
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.machine.modes import usual_modes
from sparring.machine.signals import stopping_on_signals
from sparring.models.starting import not_fresh
from sparring.observe.discovery import announced, reachable
from sparring.observe.exporter import Exporter
from sparring.observe.findings import findings
from sparring.observe.progress import Progress
from sparring.observe.report import MEASURED, summary
from sparring.observe.state import Heartbeats, Report, RunState
from sparring.plugins import users_failure
from sparring.runs import Run, open_run, overwrite
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.evaluating import evaluate_on_test, warning_of_warmup
from sparring.trainer.experiment import Experiment, Live
from sparring.trainer.session import Session
from sparring.trainer.training_state import keep_frozen

log = logging.getLogger(__name__)
STATE_FILE_EVERY_S = 1.0


@dataclass(frozen=True)
class Result:
    """A run that has ended: finished, incomplete (examples are missing), stopped or interrupted."""

    run: Run
    phase: str
    summary: dict[str, Any]
    model: nn.Module | None = field(default=None, repr=False)
    """The object that was passed to `train`, which knows how its weights are used."""

    def load_model(self, *, best: bool = False, weights: Literal["plain", "ema"] = "plain") -> nn.Module:
        """The trained network in eval mode; see `sparring.load_model`."""
        return load_model(self.run.path, best=best, weights=weights, model=self.model)


class LatestState:
    """The latest state of a run, for the live view, the metrics endpoint and `state.json`; doubts: about figures."""

    def __init__(self, show: Report | None, data: DataSummary, doubts: Sequence[str] = ()) -> None:
        self.show, self.data, self.doubts = show, data, doubts
        self.run: Run | None = None
        self.state, self.workers = RunState(), Heartbeats()
        self._written = 0.0

    def update(self, state: RunState, workers: Heartbeats | None = None) -> None:
        state.data = self.data.line
        self.state, self.workers = state, workers or {}
        if self.show is not None:
            self.show(self.state, self.workers)
        now = time.monotonic()
        if self.run is not None and now - self._written >= STATE_FILE_EVERY_S:
            self._written = now
            self.write()

    def write(self) -> None:
        """Put the state into the run's folder."""
        if self.run is not None:
            self.run.write_json("state.json", {**self.state.as_dict(), "workers": self.workers})

    def failed(self, message: str) -> None:
        """Put into the run's folder that it failed, also where the disk is full."""
        self.state.phase, self.state.message = "failed", message
        if self.run is None:
            return
        try:
            self.write()
        except SparringError:
            with suppress(SparringError):
                overwrite(self.run.path / "state.json", json.dumps({**self.state.as_dict(), "workers": self.workers}))

    def read(self) -> tuple[RunState, Heartbeats]:
        return self.state, self.workers


def train(
    config: Config | str | Path | None = None,
    show: Report | None = None,
    on_run: Callable[[Run], None] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    train_data: object = None,
    test_data: object = None,
    progress: bool = True,
) -> Result:
    """Train by `config` (the demo's digits by default) in a new run folder.

    Everything that can be refused is refused before the folder is made.

    Args:
        config: a configuration, or the path of a recipe.
        show: called with the state and the workers' heartbeats about twice a second, instead of the progress.
        on_run: called with the run as soon as its folder is there.
        overrides: settings by dotted name, such as {"train.epochs": 10}.
        model: a network to train instead of what model.name names. It starts from its own weights and stays as it is;
            `Result.load_model` gives the trained one.
        train_data, test_data: torch Datasets, DataLoaders or pairs (images, labels) instead of what data.name names.
        progress: show how far it is, on standard error.

    Raises:
        UsageError: the configuration cannot work.
        SparringError: the run failed; its folder and its last checkpoint stay.
    """
    if not isinstance(config, Config | str | Path | None):
        raise UsageError(
            f"config is a {type(config).__name__}; it must be a configuration or the path of a recipe. Pass settings "
            'by name as overrides={"train.epochs": 2}.'
        )
    if not isinstance(config, Config):
        config = load(None if config is None else Path(config), overrides)
    elif overrides:
        config = overridden(config, changes_of(overrides))
    config = with_absolute_paths(config)
    plugins.forget_installed()
    require_new_folder(config.run)
    live = live_objects(model, train_data, test_data, config)
    made = recorded(config, live, model, train_data)
    with _shown(made.data.name, show, progress) as report:
        result = _execute(made, lambda: new_run(made), report, on_run, live, starts=True)
    return replace(result, model=model)


@contextmanager
def _shown(title: str, show: Report | None, progress: bool) -> Iterator[Report | None]:
    """Where the state is reported: to the caller's own function, or to the live view."""
    if show is not None or not progress:
        yield show
        return
    with Progress(title) as view:
        yield view.update


def make_run(config: Config, note: Callable[[str], None] = lambda line: None) -> Run:
    """A run folder for a background process to train in; everything that can be refused is refused now.

    note: called with a line about the data.
    """
    config = with_absolute_paths(config)
    require_new_folder(config.run)
    note(check(config, starts=True).data_summary.line)
    return new_run(config)


def attend(run: Run) -> Result:
    """Train in a folder that `make_run` made."""
    return _execute(config_of(run), lambda: run, None, None, Live(), starts=True)


def resume(
    path: str | Path,
    changes: dict[str, Any] | None = None,
    show: Report | None = None,
    *,
    model: nn.Module | None = None,
    train_data: object = None,
    test_data: object = None,
    progress: bool = True,
) -> Result:
    """Continue a run from its last checkpoint, exactly where its epoch was; start one that failed before it began.

    Args:
        changes: settings by dotted name; those that would alter the trained function are refused.
        model, train_data, test_data: what the run was started with, where that was passed from Python.
        show, progress: see `train`.

    Raises:
        UsageError: it is no run, is still running or has finished, or a change would alter the trained function.
    """
    run = open_run(Path(path))
    before = config_of(run)
    config = with_absolute_paths(overridden(before, changes_of(changes or {})))
    require_resumable(run, before, config)
    live = live_objects(model, train_data, test_data, config)
    require_passed(config, live)
    require_loadable(run, config, live)
    config = _same_warmup(before, config)
    with _shown(run.path.name, show, progress) as report:
        starts = not has_begun(run, config)
        result = _execute(config, lambda: run, report, None, live, starts=starts, before=before)
    return replace(result, model=model)


def _same_warmup(before: Config, config: Config) -> Config:
    """`config` with the end of ε's warm-up where it was: in a longer run its share would begin to grow anew."""
    if config.train.epochs == before.train.epochs or before.attack.warmup_epochs is not None:
        return config
    epochs = ceil(before.train.epochs / before.train.replays)
    return overridden(config, {"attack.warmup_epochs": before.attack.warmup * epochs})


def _require_as_checked(run: Run, before: Config) -> None:
    """Refuse a run whose settings are no longer those `before`, which the resume was checked with.

    Raises:
        UsageError: another process has resumed it meanwhile.
    """
    if config_of(run) != before:
        raise UsageError(f"{run.path} was resumed with other settings by another process meanwhile. Resume it again.")


def _note_phase(run: Run, before: Config, config: Config) -> None:
    """Record in phases.json that a run is made longer: from which step, and what changed."""
    changes = {name: list(pair) for name, pair in differences(before, config).items() if name in LENGTH}
    if changes:
        checkpoints.recover(run.checkpoints)  # else it would only be found after this
        newest = checkpoints.latest(run.checkpoints)
        step = 0 if newest is None else checkpoints.step_of(newest)
        phase, phases = {"from_step": step, "changes": changes}, run.read_json("phases.json") or []
        if phase not in phases[-1:]:  # it is there where the last resume died before its first step
            run.write_json("phases.json", [*phases, phase])
        log.warning("a new phase from step %d: %s; the schedule of the rate now spans the longer run", step, changes)


@usual_modes()
def _execute(
    config: Config,
    open_folder: Callable[[], Run],
    show: Report | None,
    on_run: Callable[[Run], None] | None,
    live: Live,
    *,
    starts: bool,
    before: Config | None = None,
) -> Result:
    """Train; `before`: the settings until now of a run that is resumed."""
    overlapping = config.engine == "ray" and not config.staleness.lockstep
    experiment = check(config, live, starts=starts)
    data, plan = experiment.data_summary, experiment.plan
    warnings = doubts_of(experiment) if starts else []
    if overlapping and (expected := check_staleness(config.staleness)):
        warnings.append(expected)
    warnings += warning_of_warmup(experiment, min(plan.total_steps, config.train.max_steps or plan.total_steps))
    doubts = weaknesses(experiment)
    latest = LatestState(show, data, (*data.warnings, *doubts))
    with ExitStack() as stack:
        exporter = None  # first: a port that is taken is refused before a server is started
        if config.metrics.enabled:
            exporter = stack.enter_context(Exporter(config.metrics.bind, config.metrics.port, latest.read))
        queue = None
        if config.engine == "ray":
            from sparring.engines.ray import driver as ray_engine
            from sparring.queue.opening import open_queue

            queue = stack.enter_context(open_queue(config, *experiment.queued))
        run = latest.run = open_folder()
        latest.state = replace(_earlier_state(run), engine=config.engine, dataset=config.data.name)
        stack.enter_context(run.owned())
        if before is not None:
            _require_as_checked(run, before)
        try:
            latest.write()  # whatever ends it from here on, it says how far it came, and is not finished any more
            if before is not None:
                _note_phase(run, before, config)
            _begin(run, experiment, starts=starts, from_model=live.model is not None)
            if exporter is not None:
                address = reachable(config.metrics.bind, exporter.port)
                run.write_json("metrics.json", {"url": f"http://{address}/metrics"})
                if config.metrics.file_sd is not None:
                    stack.enter_context(announced(config.metrics.file_sd, run, address))
            for text in (*unused(experiment), *doubts):
                log.info("settings: %s", text)  # they have been said
            for warning in warnings:
                log.warning("%s", warning)
            latest.state.message = " ".join([*warnings, f"engine {config.engine} is starting"])
            latest.write()
            if on_run is not None:
                on_run(run)
            if queue is not None:
                outcome = ray_engine.run(experiment, run, queue, latest.update, sources_of(config))
            else:
                outcome = _in_this_process(config, run, experiment, latest)
            return _conclude(run, outcome.phase, outcome.state, outcome.evaluation, latest)
        except OSError as error:
            failure = file_failure(error, run.path)
            _fail(run, failure, latest)
            raise failure from error
        except KeyboardInterrupt as interrupt:  # before or after the training, which stops in good order
            _end(run, "interrupted", "", latest)
            note_run(interrupt, run.path)
            raise
        except Exception as error:
            of_user = users_failure(error)
            _fail(run, of_user or error, latest)
            if of_user is not None:
                raise of_user from error
            raise


def _earlier_state(run: Run) -> RunState:
    """What a resume begins with, and keeps where it fails at once; a fresh one where the file is damaged or missing."""
    try:
        return replace(RunState.from_dict(run.read_object("state.json")), phase="starting", message="")
    except (SparringError, ValueError):
        return RunState()


def _begin(run: Run, experiment: Experiment, *, starts: bool, from_model: bool) -> None:
    """Put into the run's folder what a resume needs of the run's start; `has_begun` tells whether it is there.

    from_model: the initial weights are those of a model that was passed from Python.
    """
    config, data = experiment.config, experiment.data_summary
    run.clear_stop()
    run.connection.unlink(missing_ok=True)  # of a life that was killed: nobody answers there
    run.write_config(to_toml(config))
    to_file(run.log)
    for text in (data.line, *data.warnings):
        log.info("data: %s", text)
    if starts:
        record_sources(run, config)
        if from_model or not_fresh(config.model):
            checkpoints.save_initial(run.initial, experiment.model)
    keep_frozen(run, experiment.helper)
    if starts or not run.data.is_file():
        _note_data(run, experiment)  # last: what has this file has all


def _fail(run: Run, error: Exception, latest: LatestState) -> None:
    """Record in the run's folder that it failed and why, as far as its disk takes that."""
    message = str(error) if isinstance(error, SparringError) else f"{type(error).__name__}: {error}"
    log.error("%s", message)
    note_run(error, run.path)  # the command prints it, whatever has failed
    latest.failed(message)
    _end(run, "failed", message, latest)


def _end(run: Run, phase: str, message: str, latest: LatestState) -> None:
    """Record how a run ended without a result, as far as its disk takes that."""
    try:
        _conclude(run, phase, latest.state, None, latest, message)
    except SparringError as other:
        log.error("%s", other)


def _note_data(run: Run, experiment: Experiment) -> None:
    """Facts of the data, so that the network can be built again without them."""
    data = experiment.training
    run.write_json(
        run.data.name,
        {
            "shape": data.shape,
            "classes": data.classes,
            "examples": len(data),
            "fingerprint": data.fingerprint,
            "test_fingerprint": experiment.test().fingerprint,
        },
    )


def session_here(experiment: Experiment, run: Run, report: Callable[[RunState], None]) -> Session:
    """A session on this process's own device."""
    from sparring.machine.devices import device_for

    device = device_for(experiment.config.trainer.device, float(torch.cuda.is_available()))
    return Session(experiment, run, device, report)


def train_here(session: Session, experiment: Experiment) -> str:
    """Train in this process, from the newest checkpoint to the end of the run; returns how it ended.

    Raises:
        SparringError: it failed.
    """
    engine = _engine_of(experiment.config)
    resumed = session.restore()
    session.start_clock()
    while True:
        try:
            return engine(session, experiment, resumed)
        except RollBack as error:
            resumed = session.roll_back(error)


def _engine_of(config: Config) -> Callable[[Session, Experiment, Checkpoint | None], str]:
    """The engine in this process that the settings name; the virtual one alone needs Redis' client."""
    from sparring.engines import ddp, free, simulated, sync, yopo

    if config.engine == "virtual":
        from sparring.engines.virtual import engine as virtual

        return virtual.run
    synchronous = free.run if config.train.replays > 1 else yopo.run if config.yopo.passes else sync.run
    return {"sync": synchronous, "ddp": ddp.run, "simulated": simulated.run}[config.engine]


def _in_this_process(config: Config, run: Run, experiment: Experiment, latest: LatestState) -> Outcome:
    torch.set_num_threads(trainer_threads(config))
    keep_freed_memory()
    session = session_here(experiment, run, latest.update)
    with stopping_on_signals(session.ask_to_stop):
        phase = train_here(session, experiment)
        if phase != "finished":
            return Outcome(phase, session.state)

        def progress(message: str) -> None:
            if session.stop_reason is not None or run.stop_requested():
                raise _StoppedEvaluating
            session.state.phase, session.state.message = "evaluating", message
            session.report_soon()

        try:
            evaluation = evaluate_on_test(session.learner, session.run, progress)
        except _StoppedEvaluating:
            return Outcome(session.stop_reason or "stopped", session.state)
        return Outcome(phase, session.state, evaluation)


class _StoppedEvaluating(Exception):
    """The run is to stop during its evaluation; a resume evaluates again."""


def _conclude(
    run: Run, phase: str, state: RunState, evaluation: dict[str, Any] | None, latest: LatestState, message: str = ""
) -> Result:
    """Last state and summary of the run's folder, with the warnings about its data; `message`: why it failed.

    The summary comes first where the run has finished: without it the run could be resumed no more to make it.
    """
    figures = {name: value for name, value in (evaluation or {}).items() if name in MEASURED}
    figures["warnings"] = list(dict.fromkeys([*latest.doubts, *findings(state), *figures.get("warnings", ())]))
    content = summary(state, figures)
    if phase == "finished":
        run.write_json("summary.json", content)
    state.phase, state.message = phase, message
    latest.update(state)
    latest.write()
    if phase != "finished":
        run.write_json("summary.json", content)
    return Result(run, phase, content)
