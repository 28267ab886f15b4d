from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.cli import main
from sparring.commands import doctor
from sparring.commands.doctor import Check, examine
from sparring.config import from_tree
from sparring.queue.server import EmbeddedServer

CPU_ONLY = {"available": False, "device": "", "gpus": 0.0}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor sees on a machine without GPUs; a real Ray is asked in one test of its own."""
    monkeypatch.setattr(doctor, "_ask_actor", lambda config: CPU_ONLY)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=512 << 20) as running:
        yield running


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield int(held.getsockname()[1])


def checks(**tree: object) -> dict[str, Check]:
    return {check.name: check for check in examine(from_tree(tree))}


@pytest.mark.usefixtures("no_ray")
def test_the_demo_is_fit_to_run_and_every_part_is_told() -> None:
    found = checks()
    assert all(check.ok and check.detail and not check.remedy for check in found.values()), found
    names = "python, torch, own files, cuda in ray, redis, port, disk, data, methods, cores"
    assert ", ".join(found) == names and "torchvision" in found["own files"].detail
    assert found["methods"].detail.startswith("digits-cnn: pgd-at, pgd (")
    assert "embedded, noeviction" in found["redis"].detail
    assert "1,437 training images" in found["data"].detail and "360 test images" in found["data"].detail
    assert found["port"].as_dict() == {"name": "port", "ok": True, "detail": found["port"].detail, "remedy": ""}


@pytest.mark.usefixtures("no_ray")
def test_what_a_file_of_ones_own_does_is_tried(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("import torchvision\nfrom torch import nn\ndef make(shape, classes): return nn.Linear(2, 3)\n")
    found = checks(model={"name": f"{own}:make"})["methods"]
    assert not found.ok and f"model.name = '{own}:make' cannot take images" in found.detail
    own.write_text("import there_is_none\n")
    found = checks(model={"name": f"{own}:make"})["methods"]
    assert not found.ok and "No module named 'there_is_none', own.py:1" in found.detail


@pytest.mark.usefixtures("no_ray")
def test_that_torchvision_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()["own files"].ok, "what follows is of a torchvision that is imported already"
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    found = checks()["own files"]
    assert not found.ok and "own.py:3" in found.detail and "match the installed torch" in found.remedy


@pytest.mark.usefixtures("no_ray")
def test_a_port_in_use_is_told_with_its_setting_and_who_holds_it(listening: int) -> None:
    found = checks(metrics={"port": listening})["port"]
    assert not found.ok and f"metrics.port = {listening}" in found.detail and "metrics.port" in found.remedy
    if Path("/proc/net/tcp").exists():
        assert f"(process {os.getpid()})" in found.detail
    assert checks(metrics={"port": listening, "enabled": False})["port"].ok


@pytest.mark.usefixtures("no_ray")
def test_a_redis_that_may_evict_shards_is_not_accepted(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_REDIS_PASSWORD", server.password)
    assert checks(queue={"redis_url": server.url})["redis"].ok
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    found = checks(queue={"redis_url": server.url})["redis"]
    assert not found.ok and "allkeys-lru" in found.detail and "noeviction" in found.detail


@pytest.mark.usefixtures("no_ray")
def test_a_redis_that_does_not_let_us_in_is_told_without_its_password(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARRING_REDIS_PASSWORD", "not-the-right-one")
    found = checks(queue={"redis_url": server.url})["redis"]
    assert not found.ok and "password_env" in found.detail and "not-the-right-one" not in found.detail


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("engine", ["ray", "sync", "simulated"])
def test_a_redis_that_is_not_there_matters_to_the_asynchronous_engine_alone(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "REDIS_TIMEOUT_S", 0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
        found = checks(engine=engine, queue={"redis_url": url})["redis"]
    assert found.ok == (engine != "ray") and "no answer" in found.detail
    assert engine == "ray" or f"engine = {engine} does not need it" in found.detail


@pytest.mark.usefixtures("no_ray")
def test_gpus_that_are_not_there_are_missed() -> None:
    assert checks(workers={"count": 2, "num_gpus": 0.0})["cuda in ray"].ok
    found = checks(workers={"count": 2, "num_gpus": 0.5})["cuda in ray"]
    assert not found.ok and "has 0 GPUs, the run requests 1" in found.detail and "num_gpus" in found.remedy


@pytest.mark.usefixtures("no_ray")
def test_missing_data_and_a_full_disk_are_told_and_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DISK_BYTES", 1 << 60)
    found = checks(data={"name": "mnist", "root": str(tmp_path), "download": False}, run={"root": str(tmp_path)})
    assert not found["data"].ok and "mnist" in found["data"].detail and found["data"].remedy
    assert not found["disk"].ok and "run.root" in found["disk"].detail
    assert found["redis"].ok


@pytest.mark.usefixtures("no_ray")
def test_the_command_fails_where_a_check_fails_and_says_what_to_do(
    listening: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["sparring", "doctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().out

    code, text = said("--metrics.port", str(listening))
    assert code == 1 and "FAILED" in text and "Choose another metrics.port" in text
    code, text = said("--json", "--metrics.port", str(listening))
    assert code == 1 and [check["name"] for check in json.loads(text) if not check["ok"]] == ["port"]
    assert said()[0] == 0


@pytest.mark.ray
def test_cuda_is_looked_for_inside_a_ray_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = checks()["cuda in ray"]
    assert found.ok and "in an actor" in found.detail, found


@pytest.mark.ray
def test_a_ray_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "RAY_TIMEOUT_S", 0.01)
    found = checks()["cuda in ray"]
    assert not found.ok and "did not start an actor" in found.detail
