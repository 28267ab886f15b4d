"""Two trainers over a real queue, the second one in a process of its own: the weights are those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]

from sparring.commands.train import train
from sparring.config import Config, config_of, from_tree, new_run
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.follower import following
from sparring.engines.asynchronous.inbox import Inbox
from sparring.engines.asynchronous.leader import leading
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.queue.connection import connect
from sparring.queue.orders import Orders
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.runs import Run
from sparring.trainer import checkpoints
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
METHODS: tuple[dict[str, Any], ...] = (
    {"staleness": FRESH, "train": {"ema": 0.9}, "objective": {"awp_gamma": 0.01}},
    {"staleness": SYNCHRONOUS, "attack": {"start": "last"}, "pruning": {"name": "high", "epoch": 1}},
    {"staleness": SYNCHRONOUS, "allocator": {"name": "bullettrain"}, "objective": {"name": "mart"}},
    {"staleness": FRESH, "attack": {"name": "augmix"}, "objective": {"name": "augmix"}},
)


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
    config = config_of(run)
    experiment = build_experiment(config)
    session = Session(experiment, run, torch.device("cpu"))
    resumed = session.restore()
    transport, orders = queue_of(run, url, password)
    with leading(session, orders, meeting(run)) as leader:
        inbox = Inbox(transport, lambda: transport.fence, leader.reported)
        loop = Loop(
            session,
            experiment,
            transport,
            Broadcaster(session, Nowhere()),
            inbox,
            resumed=resumed,
            trainers=leader,
        )
        assert loop.run() == "finished"
    return session


def weights_of(run: Run) -> torch.Tensor:
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    return torch.cat([tensor.flatten() for tensor in load_file(path / checkpoints.MODEL).values()])


def test_the_weights_are_those_of_one_trainer_and_every_example_counts_once(tmp_path: Path) -> None:
    methods = (*METHODS, {"staleness": LOOSE})
    runs = [new_run(config_for(tmp_path / str(number), **method)) for number, method in enumerate(methods)]
    with EmbeddedServer(maxmemory=64 << 20) as server:
        place = server.url, server.password
        with beside(follow, [run.path for run in runs], *place):
            *sessions, loose = [lead(run, *place) for run in runs]
    *runs, loose_run = runs
    assert epochs_of(loose_run) == {0: Counter(range(10)), 1: Counter(range(10))}
    assert loose.state.gradients == 600 * (3 + 1) and loose.state.refresh_steps == 20
    for run, session in zip(runs, sessions, strict=True):
        tree = config_of(run).model_dump(mode="json", exclude_none=True)
        alone = tree | {"engine": "sync", "trainer": tree["trainer"] | {"count": 1}}
        alone["run"] = {"root": str(run.path / "alone")}
        once = train(from_tree(alone))
        expected, made = weights_of(once.run), weights_of(run)
        assert float((made - expected).norm() / expected.norm()) < 1e-5, session.experiment.method
        assert epochs_of(run) == epochs_of(once.run), session.experiment.method
        state, of_one = session.state.as_dict(), once.run.read_json("state.json") or {}
        for name in ("step", "examples", "gradients", "allocated", "kept"):
            assert state[name] == of_one[name], (name, session.experiment.method)
