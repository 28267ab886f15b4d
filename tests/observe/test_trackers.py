"""Trackers are reported what a line of metrics.jsonl tells, and can never cost a run."""

from __future__ import annotations

import ast
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.commands.train import resume, train
from sparring.config import new_run
from sparring.errors import SparringError
from sparring.observe.state import RunState
from sparring.observe.trackers import Tracking, scalars
from sparring.runs import Run
from tests.support.runs import small
from tests.support.states import full_state

STEPS = 4


def tracked(root: Path, *names: str, **groups: Any) -> Run:
    """A run that has ended, of four steps with a line of metrics at each."""
    metrics = {"trackers": names, "every_steps": 1}
    return train(small(root, engine="sync", train={"max_steps": STEPS}, metrics=metrics, **groups)).run


def lines(run: Run) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in run.metrics.read_text().splitlines())


def losses(run: Run) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(run)}


def in_tensorboard(run: Run, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped, unused-ignore]
        EventAccumulator,
    )

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_tensorboard_has_every_line_before_and_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tracked(tmp_path, "tensorboard")
    assert in_tensorboard(run, "loss") == pytest.approx(losses(run)) and len(losses(run)) == STEPS
    state = json.loads((run.path / "state.json").read_text())
    run.write_json("state.json", {**state, "phase": "stopped"})
    run.write_config(run.config_file.read_text().replace(f"max_steps = {STEPS}", f"max_steps = {STEPS + 3}"))
    resume(run.path)
    assert in_tensorboard(run, "loss") == pytest.approx(losses(run)) and len(losses(run)) == STEPS + 3


def records(content: bytes) -> Iterator[bytes]:
    """Of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    block, whole, first_or_full, last_or_full = 32768, b"", (1, 2), (1, 4)
    at = 7
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        whole = (b"" if kind in first_or_full else whole) + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in last_or_full:
            yield whole


def test_weights_and_biases_keeps_every_line_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tracked(tmp_path, "wandb")
    (path,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    reported = {}
    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if items:
            reported[int(items["steps"])] = items["loss"]
    assert reported == pytest.approx(losses(run))


def test_mlflow_has_settings_and_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = tracked(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    found = client.get_run(run.read_json("mlflow.json"))
    assert found.info.status == "FINISHED" and found.data.params["attack.epsilon"] == "0.2"
    history = {each.step: each.value for each in client.get_metric_history(found.info.run_id, "loss")}
    assert history == pytest.approx(losses(run))


def test_trackio_keeps_every_line_and_leaves_standard_output_alone(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "db"), "HOME": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "sparring",
        "train",
        "--json",
        "--engine",
        "sync",
        "--run.root",
        str(tmp_path / "runs"),
    ]
    command += ["--metrics.trackers", '["trackio"]', "--metrics.every_steps", "1", "--train.max_steps", str(STEPS)]
    command += ["--evaluation.samples", "10", "--evaluation.steps", "1", "--metrics.enabled", "false"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    run = Run(Path(json.loads(said.stdout)["run"]))
    read = f"from trackio.sqlite_storage import SQLiteStorage as S; print(repr(S.get_logs('sparring', {run.id!r})))"
    logs = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=True)
    reported = {line["step"]: line["loss"] for line in ast.literal_eval(logs.stdout.splitlines()[-1])}
    assert reported == pytest.approx(losses(run)) and len(reported) == STEPS


def test_a_tracker_that_is_not_installed_is_refused_with_the_name_of_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SparringError, match=r"wandb is not installed\. pip install 'sparring\[wandb\]'"):
        tracked(tmp_path, "wandb")
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_switched_off_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    config = small(tmp_path, engine="sync", metrics={"trackers": ("tensorboard",)})
    run = new_run(config)
    (run.path / "tensorboard").write_text("a file where the folder should be")
    tracking = Tracking(config, run)
    tracking(full_state())
    tracking(full_state())
    tracking.close()


def test_scalars_are_the_metrics_of_the_run_by_name() -> None:
    reported = scalars(full_state())
    assert reported["loss"] == 1.25 and reported["steps"] == 120 and reported["shards_dropped/stale"] == 2
    assert reported["staleness_steps"] == 1.7 and reported["trainer_wait_seconds/no_shard"] == 4.5
    assert not [name for name in reported if name.startswith(("worker_", "info", "up"))]


def test_what_is_not_known_or_no_number_is_left_out() -> None:
    assert not {"loss", "clean_accuracy"} & set(scalars(RunState(loss=float("nan"))))
