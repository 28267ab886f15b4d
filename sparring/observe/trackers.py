"""Optional experiment trackers: the lines of metrics.jsonl also go to TensorBoard, Weights & Biases, MLflow or Trackio.

Each tool is configured by its own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR). A tracker that
fails is switched off with a warning, and training continues without it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import NamedTuple

from sparring.config import Config, flatten
from sparring.errors import SparringError
from sparring.observe.metrics import METRICS
from sparring.observe.readings import number
from sparring.observe.state import RunState, staleness_summary
from sparring.runs import Run

log = logging.getLogger(__name__)


class Tracker(NamedTuple):
    """An open tracker: `log` takes a step and its values by name."""

    log: Callable[[int, dict[str, float]], None]
    close: Callable[[], object]


class Tracking:
    """Sends the states of a run to the trackers of `metrics.trackers`, which are opened with the first state."""

    def __init__(self, config: Config, run: Run) -> None:
        self._config, self._run = config, run
        self._open: dict[str, Tracker] | None = None

    def __call__(self, state: RunState) -> None:
        if self._open is None:
            self._open = {}
            for name in self._config.metrics.trackers:
                self._guarded(name, partial(self._start, name, state.step))
        values = scalars(state)
        for opened, tracker in list(self._open.items()):
            self._guarded(opened, partial(tracker.log, state.step, values))

    def close(self) -> None:
        """Flush and close the trackers; the next state opens them again."""
        for name, tracker in (self._open or {}).items():
            self._guarded(name, tracker.close)
        self._open = None

    def _start(self, name: str, step: int) -> None:
        if self._open is None:
            raise RuntimeError(f"tracker {name} is started after all were closed")
        self._open[name] = TRACKERS[name](self._config, self._run, step)

    def _guarded(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # a tracker may raise anything, and must not end the run
            log.warning("metrics.trackers: %s is switched off: %s: %s", name, type(error).__name__, error)
            if self._open is not None:
                self._open.pop(name, None)


def scalars(state: RunState) -> dict[str, float]:
    """The finite metrics by name without `sparring_`, labels after a slash; the mean of a histogram."""
    return {name: value for name, value in _scalars(state) if math.isfinite(value)}


def _scalars(state: RunState) -> Iterator[tuple[str, float]]:
    for metric in METRICS:
        name = metric.name.removeprefix("sparring_").removesuffix("_total")
        for labels, reading in metric.source(state, {}):
            value = number(staleness_summary(reading)[0] if metric.type == "histogram" else reading)
            if value is not None and metric.name not in ("sparring_info", "sparring_up"):
                yield "/".join((name, *labels)), value


def require_trackers(names: Sequence[str]) -> None:
    """Check before a run that the trackers are installed.

    Raises:
        SparringError: the package of a tracker is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SparringError(
                f"metrics.trackers = {list(names)}: {name} is not installed. pip install 'sparring[{name}]', on the "
                f"trainer's host too."
            )


def _tensorboard(config: Config, run: Run, step: int) -> Tracker:
    """Event files in the run's folder. Earlier values from `step` on, undone by a crash or rollback, are hidden."""
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step)

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Tracker(write, writer.close)


def _wandb(config: Config, run: Run, step: int) -> Tracker:
    """A run of the same name; a resume continues it."""
    import wandb

    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sparring"),
        id=run.id,
        name=run.path.name,
        dir=str(run.path),
        resume="allow",
        config=flatten(config),
    )
    opened.define_metric("*", step_metric="steps")  # wandb's own step cannot decrease, as ours does in a rollback
    return Tracker(lambda step, values: opened.log(values), opened.finish)


def _mlflow(config: Config, run: Run, step: int) -> Tracker:
    """A run in the experiment `sparring` (or MLFLOW_EXPERIMENT_NAME); a resume continues it."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client, named = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", "sparring")
    known = run.read_json("mlflow.json")
    if known is None:
        found = client.get_experiment_by_name(named)
        experiment = client.create_experiment(named) if found is None else found.experiment_id
        known = client.create_run(experiment, run_name=run.path.name).info.run_id
        run.write_json("mlflow.json", known)
        settings = flatten(config)
        client.log_batch(known, params=[Param(name, str(value)) for name, value in settings.items()])
    else:
        client.update_run(known, status="RUNNING")

    def write(step: int, values: dict[str, float]) -> None:
        at_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, at_ms, step) for name, value in values.items()]
        client.log_batch(known, metrics=metrics)

    return Tracker(write, lambda: client.set_terminated(known))


def _trackio(config: Config, run: Run, step: int) -> Tracker:
    """A run of the same name in the project `sparring` (or TRACKIO_PROJECT); a resume continues it."""
    import trackio

    with redirect_stdout(sys.stderr):  # it greets; standard output is the command's own
        opened = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "sparring"),
            name=run.id,
            config=flatten(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def close() -> None:
        with redirect_stdout(sys.stderr):
            trackio.finish()  # of the run itself would be called again at the exit, and print

    return Tracker(lambda step, values: opened.log(values, step=step), close)


TRACKERS: dict[str, Callable[[Config, Run, int], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
