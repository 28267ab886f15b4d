"""Rolling evaluation: workers judge held-out examples while a real run goes on, and training goes first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.commands.weights import evaluate_weights
from sparring.config import Config, new_run
from sparring.data import Dataset
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.rolling import Idle
from sparring.engines.ray.snapshots import QueueRoute
from sparring.engines.ray.worker import Worker
from sparring.evaluation.rolling import answer, questions
from sparring.models.arrays import to_arrays
from sparring.queue.messages import Controls, Key, Piece, Shard, Ticket
from sparring.queue.opening import QueueAddress
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from tests.support.digits import half_trained, training_digits
from tests.support.queues import opened
from tests.support.runs import Place, small

HELD = {
    "data": {"holdout": 60},
    "evaluation": {"steps": 2, "samples": 20, "rolling": True, "rolling_samples": 40, "rolling_batch": 16},
}
ROUTES = pytest.mark.parametrize("route", ["redis", "object_store"])


def records(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.rolling.read_text().splitlines()]


def as_test_set(folder: Path, examples: Dataset) -> None:
    """Files of `npz:FOLDER` whose test set these examples are."""
    images = examples.images(torch.arange(len(examples))).permute(0, 2, 3, 1).numpy()
    folder.mkdir()
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=images, labels=examples.labels.numpy())


@pytest.mark.ray
@ROUTES
def test_a_figure_is_that_of_an_evaluation_of_the_same_weights_on_the_same_examples(
    tmp_path: Path, route: str, shared_ray: Place
) -> None:
    attacks = ["apgd-ce", "apgd-t"] if route == "redis" else ["apgd-ce"]  # the first are those by default
    config = small(
        tmp_path,
        data=HELD["data"],
        evaluation={**HELD["evaluation"], **({} if route == "redis" else {"rolling_attacks": attacks})},
        train={"epochs": 4, "max_steps": 40, "ema": 0.9 if route == "redis" else None},
        workers={"count": 2},
        queue={"weights": route},
    )
    result = train(shared_ray(config))
    last = records(result.run)[-1]
    assert result.phase == "finished"
    assert (last["version"], last["samples"], last["of"], last["complete"]) == (40, 40, 40, True)
    best = checkpoints.best(result.run.checkpoints)
    assert best is not None and best.name == f"step-{result.summary['rolling_best_version']:09d}"
    experiment = build_experiment(config)
    asked = questions(config.evaluation, experiment.heldout, experiment.threat, config.train.seed)
    as_test_set(tmp_path / "held", asked.sample)
    newest = checkpoints.latest(result.run.checkpoints)
    assert newest is not None
    found = evaluate_weights(
        newest / ("ema.safetensors" if route == "redis" else "model.safetensors"),
        {
            "data.name": f"npz:{tmp_path / 'held'}",
            "attack.epsilon": str(config.attack.epsilon),
            "evaluation.attack": "autoattack",
            "evaluation.attacks": json.dumps(attacks),
            "evaluation.mode": "fast",
            "evaluation.batch_size": "16",
            "trainer.threads": "1",
        },
        How(),
    )
    assert found["samples"] == 40 and found["attack"] == last["attack"]
    assert (found["clean_accuracy"], found["robust_accuracy"]) == (last["clean_accuracy"], last["robust_accuracy"])
    assert list(found["robust_interval"]) == last["robust_interval"]
    assert last["clean_accuracy"] > 0


@pytest.mark.ray
def test_training_ends_early_and_uses_every_example_once_until_then(tmp_path: Path, shared_ray: Place) -> None:
    """At a rate of 0 no version is better than the first; workers that have too few permits judge in between."""
    config = small(
        tmp_path,
        data={"holdout": 60},
        evaluation={**HELD["evaluation"], "rolling_patience": 1, "rolling_samples": 16, "rolling_share": 0.5},
        optimizer={"name": "sgd", "lr": 1e-9},
        train={"epochs": 1000, "max_steps": None},
        workers={"count": 2},
    )
    result = train(shared_ray(config))
    found = [line for line in records(result.run) if line["complete"]]
    assert result.phase == "finished" and result.summary["steps"] < 1000
    assert [line["best"] for line in found] == [True, False]
    lines = [json.loads(line) for line in result.run.history.read_text().splitlines()]
    tickets = [(line["epoch"], ticket) for line in lines for ticket in line["tickets"]]
    assert len(tickets) == len(set(tickets)) == result.summary["steps"]


class Scene:
    """A worker over a real queue, driven step by step, with a version to judge, and the trainer's side."""

    def __init__(self, root: Path, server: EmbeddedServer, model: nn.Module, **groups: Any) -> None:
        config = small(
            root,
            data={"holdout": 60},
            train={"epochs": 1, "max_steps": None, "batch_size": 40},
            workers={"count": 1, "threads": torch.get_num_threads()},
            queue={"weights": "redis"},
            evaluation={**HELD["evaluation"], **groups},
        )
        self.experiment, run = build_experiment(config), new_run(config)
        self.experiment.model.load_state_dict(model.state_dict())
        self.trainer = Transport(server.client(), run.id, lease_s=5.0, timeout_s=5.0)
        self.pieces = self.trainer.pieces()
        self.fence = opened(self.trainer)
        tree = config.model_dump(mode="json", exclude_none=True)
        place = QueueAddress(server.url, server.password), ""
        self.worker = Worker(tree, "w", str(run.path), run.id, *place, ActorInputs((), {}, ()))
        assert self.worker.idle is not None
        self.idle: Idle = self.worker.idle
        self.asked = self.idle.asked
        self.publish(0, "weights")
        self.publish(7, "judged")

    def publish(self, version: int, stream: Any) -> None:
        arrays = to_arrays(self.experiment.model)
        QueueRoute(self.trainer, 2, stream).publish(Snapshot(self.fence, version, Controls(0.2), arrays))

    def piece(self, number: int, fingerprint: str = "") -> Piece:
        return Piece(self.fence, 7, number, fingerprint or self.asked.sample.fingerprint)

    def offer(self, *pieces: Piece) -> None:
        self.pieces.put_out(pieces, anew=True)

    def issue(self, number: int) -> None:
        indices, fingerprint = self.experiment.plan.indices(0, number), self.experiment.training.fingerprint
        self.trainer.issue([Ticket(Key(0, number, 0), self.fence, 0, indices, fingerprint)])

    def turn(self) -> None:
        """What the worker does in one turn of its loop."""
        self.worker.take_tickets()
        self.worker.advance()
        self.worker.settle_push()
        self.worker.judge()

    def verdicts(self, *numbers: int) -> dict[int, Any]:
        expected = [self.piece(number) for number in numbers]
        found = self.pieces.gather(expected, lambda number: len(self.asked.pieces[number]))
        return {verdict.number: verdict for verdict in found}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return half_trained(training_digits())


@pytest.fixture(scope="module")
def queue() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=64 << 20) as server:
        yield server


def ended(made: Scene, threads: int) -> None:
    made.idle.close()
    made.worker.attacks.stop()
    torch.set_num_threads(threads)


@pytest.fixture
def scene(tmp_path: Path, queue: EmbeddedServer, model: nn.Module) -> Iterator[Scene]:
    threads = torch.get_num_threads()
    made = Scene(tmp_path, queue, model)
    yield made
    ended(made, threads)


def test_a_ticket_waits_for_one_pass_and_the_verdict_is_as_if_there_had_been_none(
    scene: Scene, model: nn.Module
) -> None:
    passes: list[str] = []
    scene.worker.model.register_forward_pre_hook(lambda module, images: passes.append("attack"))
    scene.idle.model.register_forward_pre_hook(lambda module, images: passes.append("judge"))
    scene.offer(scene.piece(1))
    while "judge" not in passes:
        scene.turn()
    for number in range(5):
        scene.turn()
        passes.clear()
        scene.issue(number)
        while not isinstance(scene.trainer.receive(0.0), Shard):
            scene.turn()
        last = len(passes) - 1 - passes[::-1].index("attack")
        assert "judge" not in passes[:last], "the ticket comes first, until it is done"
    while not (found := scene.verdicts(1)):
        scene.turn()
    alone = answer(model.eval(), scene.asked, 1)
    assert (found[1].clean, found[1].robust, found[1].worker) == (*alone, "w")
    assert sum(alone.clean) > sum(alone.robust) and scene.idle.pieces_done == 1


def test_a_worker_that_ends_within_a_piece_leaves_nothing_behind_and_loses_no_other(scene: Scene) -> None:
    scene.offer(scene.piece(0), scene.piece(2))
    while not scene.idle.seconds:
        scene.turn()
    scene.idle.close()
    assert not scene.verdicts(0, 2) and scene.pieces.untaken() == 1
    scene.pieces.put_out([scene.piece(0), scene.piece(2)], anew=False)
    found: dict[int, Any] = {}
    while len(found) < 2:
        scene.turn()
        found |= scene.verdicts(0, 2)
    assert [len(found[number].clean) for number in (0, 2)] == [16, 8]


def test_what_fails_while_it_judges_costs_its_piece_alone(scene: Scene) -> None:
    def broken(module: nn.Module, images: Any) -> None:
        raise RuntimeError("out of memory")

    hook = scene.idle.model.register_forward_pre_hook(broken)
    scene.offer(scene.piece(0))
    while scene.pieces.untaken() or not scene.idle.seconds:
        scene.turn()
    hook.remove()
    scene.issue(0)
    while scene.trainer.sizes().ready == 0:
        scene.turn()
    scene.offer(scene.piece(1))
    while not scene.verdicts(1):
        scene.turn()
    assert scene.idle.pieces_done == 1


@pytest.mark.parametrize("wrong", ["number", "examples", "version"])
def test_a_piece_that_is_not_of_these_examples_or_weights_is_not_judged(scene: Scene, wrong: str) -> None:
    odd = {
        "number": scene.piece(99),
        "examples": scene.piece(0, "others"),
        "version": scene.piece(0)._replace(version=8),
    }[wrong]
    scene.offer(odd, scene.piece(1))
    if wrong == "version":
        scene.publish(8, "judged")
        scene.publish(9, "judged")
        scene.publish(10, "judged")  # of three the last two are kept here
        scene.offer(odd)
        scene.idle.route = QueueRoute(scene.worker.beating, 1, "judged")
    for _ in range(8):
        scene.turn()
    assert not scene.verdicts(0)
    if wrong != "version":
        while not scene.verdicts(1):
            scene.turn()


def test_with_a_share_of_its_time_a_worker_judges_although_tickets_wait(
    tmp_path: Path, queue: EmbeddedServer, model: nn.Module
) -> None:
    threads = torch.get_num_threads()
    made = Scene(tmp_path, queue, model, rolling_share=0.5)
    made.offer(made.piece(0))
    for number in range(20):
        made.issue(number)
    while made.trainer.sizes().ready < 20:
        made.turn()
    ended(made, threads)
    assert made.idle.seconds > 0.2 * made.worker.counts["busy_seconds"]


def test_the_share_is_none_by_default(scene: Scene) -> None:
    scene.offer(scene.piece(0))
    scene.issue(0)
    for number in range(1, 12):
        scene.issue(number)
        scene.turn()
    assert scene.worker.counts["busy_seconds"] > 0 and scene.idle.seconds == 0


def test_settings_need_rolling(tmp_path: Path) -> None:
    assert isinstance(small(tmp_path, evaluation={"rolling": True, "rolling_patience": 3}), Config)
    with pytest.raises(Exception, match=r"evaluation\.rolling_patience needs evaluation\.rolling = true"):
        small(tmp_path, evaluation={"rolling_patience": 3})
