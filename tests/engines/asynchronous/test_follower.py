"""Two trainers over a real queue, the second one in a process of its own: the weights are those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]

from sparring.commands.train import Result, train
from sparring.config import Config, config_of, from_tree, new_run, overridden
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.follower import following
from sparring.engines.asynchronous.inbox import Inbox
from sparring.engines.asynchronous.leader import Leader, leading
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.errors import RollBack
from sparring.queue.connection import connect
from sparring.queue.orders import Orders
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.trainer.session import Session
from tests.support.processes import epochs_of
from tests.support.ranks import beside
from tests.support.runs import small

COUNT = 2
FRESH = {"finish": 2, "lead": 1, "trainer_attacks": "always"}
LOOSE = {"max_staleness": 4, "depth": 2, "refresh": 1, "age_half_life": 2, "gap_every": 1, "trainer_attacks": "always"}
SYNCHRONOUS = {"max_staleness": 0, "depth": 0, "publish_every": 1, "trainer_attacks": "always"}
SAME: dict[str, dict[str, Any]] = {
    "fresh": {"staleness": FRESH, "train": {"ema": 0.9}, "objective": {"awp_gamma": 0.01}},
    "pruned": {
        "staleness": SYNCHRONOUS,
        "objective": {"name": "mart"},
        "allocator": {"name": "bullettrain"},
        "attack": {"start": "last"},
        "pruning": {"name": "high", "epoch": 1},
    },
    "augmix": {"staleness": FRESH, "attack": {"name": "augmix"}, "objective": {"name": "augmix"}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "loose": {"staleness": LOOSE},
    "halved": {"staleness": FRESH, "train": {"max_steps": 3}},
    "wild": {  # a rate that ruins this network in a step or two; times 1e-6 it is harmless
        "staleness": SYNCHRONOUS,
        "model": {"name": "tests.support.fragile:make"},
        "optimizer": {"name": "sgd", "lr": 100.0, "momentum": 0.0},
        "schedule": {"name": "constant"},
        "guard": {"rate_factor": 1e-6},
    },
}
Made = dict[str, tuple[Run, Session]]


def config_for(root: Path, **method: Any) -> Config:
    """Two epochs of steps of three shards, the last of one; the trainers attack."""
    train = {"epochs": 2, "max_steps": None, "batch_size": 30, "shards_per_step": 3, **method.pop("train", {})}
    groups = {"data": {"limit": 300}, "optimizer": {"name": "sgd", "lr": 0.05}, "queue": {"wire": "exact"}, **method}
    return small(root, train=train, trainer={"count": COUNT}, workers={"count": 0}, **groups)


class Nowhere:
    """The route of snapshots that nobody needs."""

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        copied()

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        return None

    exactly = newer


def queue_of(run: Run, url: str, password: str) -> tuple[Transport, Orders]:
    transport = Transport(connect(url, password, 5.0), run.id, lease_s=5.0, timeout_s=5.0, wire="exact", parts=COUNT)
    return transport, Orders(connect(url, password, 5.0), run.id, "group", timeout_s=5.0, wire="exact")


def meeting(run: Run) -> Store:
    return FileStore(str(run.path / "meeting"), COUNT)


def follow(paths: list[Path], url: str, password: str) -> None:
    torch.set_num_threads(1)
    for run in map(Run, paths):
        transport, orders = queue_of(run, url, password)
        learner = Learner(build_experiment(config_of(run)), torch.device("cpu"))
        with following(learner, 1, transport, orders, meeting(run)) as follower:
            follower.run()


def lead(run: Run, url: str, password: str) -> Session:
    session = Session(build_experiment(config_of(run)), run, torch.device("cpu"))
    transport, orders = queue_of(run, url, password)
    resumed = session.restore()
    with leading(session, orders, meeting(run)) as leader:
        while True:
            loop = loop_of(session, transport, resumed, leader)
            try:
                assert loop.run() == "finished"
                return session
            except RollBack as error:
                resumed = session.roll_back(error)


def loop_of(session: Session, transport: Transport, resumed: Checkpoint | None, leader: Leader | None = None) -> Loop:
    inbox = Inbox(transport, lambda: transport.fence, None if leader is None else leader.reported)
    broadcaster = Broadcaster(session, Nowhere())
    return Loop(session, session.experiment, transport, broadcaster, inbox, resumed=resumed, trainers=leader)


def weights_of(run: Run) -> torch.Tensor:
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    return torch.cat([tensor.flatten() for tensor in load_file(path / checkpoints.MODEL).values()])


def alone(run: Run) -> Result:
    """The same run in one process."""
    tree = config_of(run).model_dump(mode="json", exclude_none=True)
    group = {"engine": "sync", "trainer": tree["trainer"] | {"count": 1}, "run": {"root": str(run.path / "alone")}}
    return train(from_tree(tree | group))


@pytest.fixture(scope="module")
def made(queue_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All runs, one after the other, with one process of the second trainer."""
    methods, root = SAME | OTHERS, tmp_path_factory.mktemp("runs")
    runs = {name: new_run(config_for(root / name, **method)) for name, method in methods.items()}
    place = queue_server.url, queue_server.password
    with beside(follow, [run.path for run in runs.values()], *place):
        return {name: (run, lead(run, *place)) for name, run in runs.items()}


@pytest.mark.parametrize("name", SAME)
def test_the_weights_are_those_of_one_trainer(made: Made, name: str) -> None:
    (run, session), once = made[name], alone(made[name][0])
    expected = weights_of(once.run)
    assert float((weights_of(run) - expected).norm() / expected.norm()) < 1e-5
    assert epochs_of(run) == epochs_of(once.run)
    state, of_one = session.state.as_dict(), once.run.read_json("state.json") or {}
    for name in ("step", "examples", "gradients", "allocated", "kept"):
        assert state[name] == of_one[name], name


def test_a_loose_run_refreshes_and_trains_on_every_example_once(made: Made) -> None:
    run, session = made["loose"]
    assert epochs_of(run) == {0: Counter(range(10)), 1: Counter(range(10))}
    assert session.state.gradients == 600 * (3 + 1) and session.state.refresh_steps == 20


def test_what_is_not_finite_is_rolled_back_by_all(made: Made) -> None:
    run, session = made["wild"]
    assert session.state.rollbacks >= 1 and session.state.examples == 600
    assert epochs_of(run) == {0: Counter(range(10)), 1: Counter(range(10))} and bool(weights_of(run).isfinite().all())


def test_another_number_of_trainers_continues(made: Made, queue_server: EmbeddedServer) -> None:
    run, _ = made["halved"]
    longer = overridden(config_of(run), {"trainer.count": 1, "train.max_steps": None})
    session = Session(build_experiment(longer), run, torch.device("cpu"))
    resumed = session.restore()
    assert resumed is not None and resumed.step == 3
    transport = Transport(queue_server.client(), run.id, lease_s=5.0, timeout_s=5.0, wire="exact")
    assert loop_of(session, transport, resumed).run() == "finished"
    assert epochs_of(run) == {0: Counter(range(10)), 1: Counter(range(10))}
