"""A run names itself to Prometheus while it goes on, and only then."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sparring.commands.train import train
from sparring.errors import SparringError, UsageError
from sparring.observe.discovery import own_address, reachable
from sparring.observe.state import RunState
from sparring.runs import Run
from tests.support.runs import small


def test_a_run_is_named_while_it_trains_and_not_before_or_after(tmp_path: Path) -> None:
    targets, seen, runs = tmp_path / "targets", [], list[Run]()

    def look(state: RunState, workers: object) -> None:
        if state.phase == "training":
            seen.append({path.name: json.loads(path.read_text()) for path in targets.iterdir()})

    config = small(tmp_path, engine="sync", run={"name": "watched"}, metrics={"file_sd": str(targets)})
    result = train(config, look, runs.append)
    url = json.loads((result.run.path / "metrics.json").read_text())["url"]
    address = url.removeprefix("http://").removesuffix("/metrics")
    assert seen and all(
        each == {f"{runs[0].id}.json": [{"targets": [address], "labels": {"run": "watched"}}]} for each in seen
    )
    assert list(targets.iterdir()) == []


def test_a_run_that_fails_takes_its_name_back(tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    broken = {"optimizer": {"name": "sgd", "lr": 100.0}, "guard": {"non_finite": "stop"}}
    with pytest.raises(SparringError):
        train(small(tmp_path, engine="sync", metrics={"file_sd": str(targets)}, **broken))
    assert list(targets.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"metrics\.file_sd = .*file/targets: no file can be written there"):
        train(small(tmp_path / "runs", engine="sync", metrics={"file_sd": str(tmp_path / "file" / "targets")}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("bind", "reported"), [("127.0.0.1", "127.0.0.1:9"), ("node-7", "node-7:9"), ("::1", "[::1]:9")]
)
def test_an_address_that_others_reach_is_told_as_it_is(bind: str, reported: str) -> None:
    assert reachable(bind, 9) == reported


def test_who_listens_everywhere_is_told_by_an_address_that_can_be_asked() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        port = listening.getsockname()[1]
        host, _, reported = reachable("0.0.0.0", port).rpartition(":")
        assert host == own_address() and int(reported) == port
        socket.create_connection((host, port), timeout=5).close()
