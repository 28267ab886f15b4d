"""The actor of another trainer than rank 0, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.config import new_run
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.meeting import Meeting
from sparring.engines.ray.rank import Rank
from sparring.errors import SparringError
from sparring.queue.opening import QueueAddress
from sparring.queue.server import EmbeddedServer
from tests.support.runs import small


def test_it_waits_for_rank_0_no_longer_than_it_may(tmp_path: Path, queue_server: EmbeddedServer) -> None:
    config = small(tmp_path, trainer={"count": 2}, workers={"start_timeout_s": 0.1})
    run, place = new_run(config), QueueAddress(queue_server.url, queue_server.password)
    tree = config.model_dump(mode="json", exclude_none=True)
    rank = Rank(tree, 1, str(run.path), run.id, place, ActorInputs((), {}, ()))
    meeting = Meeting(2)
    with pytest.raises(SparringError, match=r"not all of trainer\.count = 2 trainers were ready"):
        rank.follow("group", meeting.address)
    assert "trainer 1 of group group, process" in (run.path / "logs" / "trainer-1.log").read_text()
