"""The pool over real Ray actors: who is let go, who is started again, and under which names."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from sparring.engines.ray.local import own_token
from sparring.engines.ray.pool import Pool

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("pool")]
TIMEOUT_S = 60.0


class Sleeper:
    """Serves until a file says that it is to leave; does not come while `refuse` is there."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = Path(folder), name
        if (self.folder / "refuse").exists():
            raise RuntimeError("no weights here")
        if (self.folder / "hang").exists():
            (self.folder / "hang").unlink()
            time.sleep(1000)

    def serve(self) -> str:
        (self.folder / f"{self.name}.pid").write_text(str(os.getpid()))
        while not (self.folder / f"{self.name}.leave").exists():
            time.sleep(0.01)
        return "left"


class Scene:
    """A pool in a Ray that has room for two actors, and what it has reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.died: list[str] = []
        self.gone: list[str] = []
        self.pool = Pool(self._make, self.died.append, self._leave, self.gone.append)

    def _make(self, name: str) -> Any:
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 0}
        return ray.remote(Sleeper).options(**options).remote(str(self.folder), name)

    def _leave(self, name: str) -> None:
        (self.folder / f"{name}.leave").touch()

    def until(self, what: str, condition: Callable[[], Any]) -> None:
        limit = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < limit, f"{what}: not within {TIMEOUT_S:.0f} s, {self.pool.states()}"
            self.pool.restart_dead()
            time.sleep(0.02)

    def until_states(self, **states: str) -> None:
        self.until(str(states), lambda: self.pool.states() == states)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with own_token():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def scene(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("sparring.engines.ray.pool.BACKOFF_S", (0.0,))
    scene = Scene(tmp_path)
    yield scene
    for member in scene.pool.members.values():
        ray.kill(member.actor)


def test_who_has_no_place_yet_is_let_go_first_then_the_newest_and_names_are_not_used_again(scene: Scene) -> None:
    scene.pool.follow(3)
    scene.until_states(**{"worker-0": "serving", "worker-1": "serving", "worker-2": "starting"})
    assert scene.pool.follow(2) == ["worker-2"]
    scene.until_states(**{"worker-0": "serving", "worker-1": "serving"})
    assert scene.pool.follow(1) == ["worker-1"] and scene.pool.follow(1) == []
    assert scene.pool.states()["worker-1"] == "leaving"
    scene.until_states(**{"worker-0": "serving"})
    assert scene.pool.follow(2) == []
    scene.until_states(**{"worker-0": "serving", "worker-3": "serving"})
    assert scene.gone == ["worker-2", "worker-1"]


def test_a_worker_that_is_drained_by_name_is_not_replaced_and_costs_nothing(scene: Scene) -> None:
    scene.pool.follow(2)
    scene.until_states(**{"worker-0": "serving", "worker-1": "serving"})
    assert scene.pool.follow(1, {"worker-0"}) == []
    scene.until_states(**{"worker-1": "serving"})
    assert scene.gone == ["worker-0"] and scene.died == []


def test_a_worker_that_dies_serves_again_and_one_that_dies_while_it_leaves_does_not(scene: Scene) -> None:
    scene.pool.follow(2)
    scene.until_states(**{"worker-0": "serving", "worker-1": "serving"})
    for name in ("worker-0", "worker-1"):
        scene.until("pid", (scene.folder / f"{name}.pid").exists)
    pids = {name: int((scene.folder / f"{name}.pid").read_text()) for name in ("worker-0", "worker-1")}
    (scene.folder / "worker-0.pid").unlink()
    scene.pool.leave = lambda name: None
    scene.pool.follow(1, {"worker-1"})
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    scene.until("worker-0 is back", (scene.folder / "worker-0.pid").exists)
    scene.until_states(**{"worker-0": "serving"})
    assert sorted(scene.died) == ["worker-0", "worker-1"] and scene.gone == ["worker-1"]


def test_a_worker_that_is_replaced_is_ended_also_where_its_process_is_stopped(scene: Scene) -> None:
    scene.pool.follow(1)
    note = scene.folder / "worker-0.pid"
    scene.until("pid", note.exists)
    before = int(note.read_text())
    note.unlink()
    os.kill(before, signal.SIGSTOP)
    scene.pool.replace("worker-0")
    scene.until("another process", note.exists)
    scene.until_states(**{"worker-0": "serving"})
    assert int(note.read_text()) != before and scene.died == ["worker-0"]
    scene.until("the end of the first", lambda: not Path(f"/proc/{before}").exists())


def test_a_worker_that_does_not_come_back_after_its_death_is_made_anew(scene: Scene) -> None:
    scene.pool.follow(1)
    note = scene.folder / "worker-0.pid"
    scene.until("pid", note.exists)
    os.kill(int(note.read_text()), signal.SIGKILL)
    note.unlink()
    (scene.folder / "hang").touch()
    scene.until("it hangs", lambda: not (scene.folder / "hang").exists())
    scene.pool.start_s = 0.5
    scene.until("it is there", note.exists)
    scene.until_states(**{"worker-0": "serving"})


def test_a_worker_whose_constructor_has_failed_is_made_anew(scene: Scene) -> None:
    (scene.folder / "refuse").touch()
    scene.pool.follow(1)
    scene.until("its words", lambda: "no weights here" in scene.pool.last_error)
    (scene.folder / "refuse").unlink()
    scene.until("it is there", (scene.folder / "worker-0.pid").exists)
    scene.until_states(**{"worker-0": "serving"})
