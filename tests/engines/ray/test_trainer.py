"""The trainer's actor, without Ray: it trains with its own attacks, says why it failed, and evaluates what came out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.config import new_run
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.trainer import CheckpointLost, Trainer
from sparring.queue.opening import QueueAddress
from sparring.queue.server import EmbeddedServer
from sparring.trainer import checkpoints
from tests.support.runs import small

# The trainer attacks everything itself: there are no workers.
ALONE: dict[str, Any] = {"staleness": {"trainer_attacks": "always"}, "queue": {"weights": "redis"}}


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def trainer(root: Path, server: EmbeddedServer, **groups: Any) -> Trainer:
    config = small(root, **{**ALONE, **groups})
    tree = config.model_dump(mode="json", exclude_none=True)
    return Trainer(
        tree, str(new_run(config).path), QueueAddress(server.url, server.password), "unused", ActorInputs((), {}, ())
    )


def test_it_trains_to_the_end_and_evaluates_also_after_it_has_been_started_again(
    tmp_path: Path, queue_server: EmbeddedServer
) -> None:
    made = trainer(tmp_path, queue_server, train={"max_steps": 3})
    ended = made.train()
    assert ended["phase"] == "finished" and ended["state"]["step"] == 3
    evaluated = made.evaluate(ended["step"])
    made.session = None  # as after the death of its process
    again = made.evaluate(ended["step"])
    assert again.pop("seconds") > 0 and evaluated.pop("seconds") > 0 and again == evaluated


def test_weights_that_are_not_those_of_the_last_step_are_not_evaluated(
    tmp_path: Path, queue_server: EmbeddedServer
) -> None:
    made = trainer(tmp_path, queue_server, train={"max_steps": 3}, checkpoint={"every_steps": 2})
    step = made.train()["step"]
    newest = checkpoints.latest(made.run.checkpoints)
    assert newest is not None
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    made.session = None
    with pytest.raises(CheckpointLost, match=r"step 3 are lost: .* is of step 2\. `sparring resume"):
        made.evaluate(step)
    shutil.rmtree(made.run.checkpoints)
    made.session = None
    with pytest.raises(CheckpointLost, match="is of step 0"):
        made.evaluate(step)


def test_it_says_why_it_failed_and_has_saved_what_there_was(tmp_path: Path, queue_server: EmbeddedServer) -> None:
    nobody = {"count": 1, "start_timeout_s": 1.0}
    made = trainer(tmp_path, queue_server, staleness={"trainer_attacks": "never"}, workers=nobody)
    ended = made.train()
    assert ended["phase"] == "failed" and "workers.start_timeout_s = 1" in ended["error"]
    assert checkpoints.latest(made.run.checkpoints) is not None
