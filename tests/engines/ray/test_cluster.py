"""A process that has left one Ray joins another, and what goes wrong at a connection is a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from sparring.config import RaySettings
from sparring.engines.ray.cluster import KILLED, _explained, ray_cluster, require_connectable
from sparring.errors import UsageError
from tests.support.runs import Place, small

pytestmark = pytest.mark.ray


def test_who_has_had_a_ray_of_its_own_joins_another_without_its_token(tmp_path: Path, shared_ray: Place) -> None:
    """Ray sets its mode in the environment and keeps it; the actors of who asks for a token are destroyed there."""

    class Actor:
        def answer(self) -> str:
            return "there"

    config = shared_ray(small(tmp_path))
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    with ray_cluster(RaySettings(object_store_mb=80), 1):
        assert os.environ["RAY_AUTH_MODE"] == "token" and os.environ["RAY_AUTH_TOKEN"]
    assert {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")} == before
    with ray_cluster(config.ray, 1):
        actor = ray.remote(Actor).options(num_cpus=0).remote()
        assert ray.get(actor.answer.remote(), timeout=60) == "there"


def test_a_process_that_is_connected_already_is_refused(tmp_path: Path, shared_ray: Place) -> None:
    with ray_cluster(shared_ray(small(tmp_path)).ray, 1), pytest.raises(UsageError, match=r"call ray\.shutdown\(\)"):
        require_connectable(RaySettings())
    require_connectable(RaySettings())


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_is_not_there_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path))
    require_connectable(RaySettings())
    monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=rf"^{name} = '.*nowhere' is no folder"):
        require_connectable(RaySettings())
    require_connectable(RaySettings(address="auto"))


def test_a_python_without_docstrings_is_refused() -> None:
    """Ray's own start fails there after a minute, and blames an overload."""
    text = "from sparring.engines.ray import cluster; cluster.require_connectable(cluster.RaySettings())"
    done = subprocess.run([sys.executable, "-OO", "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "PYTHONOPTIMIZE=2 (python -OO): without docstrings Ray" in done.stderr


def test_who_is_ended_by_rays_core_while_it_connects_has_a_last_word() -> None:
    text = """
import os
from sparring.engines.ray import cluster
cluster._connect = lambda *_: os._exit(1)
with cluster.ray_cluster(cluster.RaySettings(), 1):
    pass
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and done.stderr == f"{KILLED}\n"


@pytest.mark.parametrize("depth", [0, 2])
def test_a_missing_token_is_told_however_deep_it_lies(depth: int) -> None:
    error: Exception = ValueError("InvalidAuthToken: none was given")
    for _ in range(depth):
        outer = ConnectionError("could not connect")
        outer.__cause__ = error
        error = outer
    assert "asks for a token" in _explained(error) and "~/.ray/auth_token" in _explained(error)
    assert _explained(OSError("no route to host")) == "no route to host"
