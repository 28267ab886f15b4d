"""The trainer's actor, without Ray: it trains with its own attacks, says why it failed, and evaluates what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.config import new_run
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.trainer import Trainer
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
    return Trainer(tree, str(new_run(config).path), server.url, server.password, b"", "unused", ActorInputs((), {}, ()))


def test_it_trains_to_the_end_and_evaluates_also_after_it_has_been_started_again(
    tmp_path: Path, queue_server: EmbeddedServer
) -> None:
    made = trainer(tmp_path, queue_server, train={"max_steps": 3})
    ended = made.train()
    assert ended["phase"] == "finished" and ended["state"]["step"] == 3
    evaluated = made.evaluate()
    made.session = None  # as after the death of its process
    again = made.evaluate()
    assert again.pop("seconds") > 0 and evaluated.pop("seconds") > 0 and again == evaluated


def test_it_says_why_it_failed_and_has_saved_what_there_was(tmp_path: Path, queue_server: EmbeddedServer) -> None:
    nobody = {"count": 1, "start_timeout_s": 1.0}
    made = trainer(tmp_path, queue_server, staleness={"trainer_attacks": "never"}, workers=nobody)
    ended = made.train()
    assert ended["phase"] == "failed" and "workers.start_timeout_s = 1" in ended["error"]
    assert checkpoints.latest(made.run.checkpoints) is not None
