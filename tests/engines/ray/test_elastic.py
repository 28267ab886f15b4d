"""Workers come and go while a run trains: on a Ray of its own, and on a cluster that gets a node in mid-run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get

from sparring.commands.control import change_workers, read_status, read_workers, stop_run
from sparring.config import Config, config_of
from sparring.errors import UsageError
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run
from tests.support import resting
from tests.support.processes import epochs_of, running
from tests.support.runs import small
from tests.support.waiting import TIMEOUT_S, wait_for

# One process tells both stories, whose runs take a while to start.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("elastic"), pytest.mark.timeout(480)]


@dataclass
class Story:
    """What was seen of a run that began with one worker, was raised to `most`, had one drained and was stopped."""

    run: Run
    most: int
    output: str = ""
    exit_code: int = -1
    trainers: set[int] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)
    left_at: int = 0


def steps_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.history.read_text().splitlines()]


def tell(
    root: Path,
    config: Config,
    most: int,
    before_all_serve: Callable[[Story], None] = lambda story: None,
    requested: Callable[[], int] = lambda: 0,
) -> Story:
    with running(config, root) as (run, process):
        story = Story(run, most)

        def reached(step: int) -> bool:
            reported = read_status(run)
            if reported["trainer_pid"]:
                story.trainers.add(reported["trainer_pid"])
            return bool(reported["step"] >= step)

        def serving() -> bool:
            reached(0)
            found = read_workers(run)["workers"]
            story.served |= {name for name, fields in found.items() if fields.get("shards", 0) > 0}
            return len(story.served) == most

        wait_for("step 2", lambda: reached(2))
        story.requests.append(requested())
        assert change_workers(run, "set", most - 1)["wanted"] == most - 1
        assert commanded(run, "add")["wanted"] == most
        with pytest.raises(UsageError, match=r"worker-9: .* has no such worker\. There are worker-0"):
            change_workers(run, "drain", "worker-9")
        with pytest.raises(
            UsageError,
            match=r"set 0: workers.count must stay between 1 and .* Without workers nothing would be attacked",
        ):
            change_workers(run, "set", 0)
        wait_for("so many workers", lambda: len(read_workers(run)["workers"]) == most)
        story.requests.append(requested())
        before_all_serve(story)
        wait_for("shards of all", serving)
        assert change_workers(run, "drain", "worker-0")["wanted"] == most - 1
        wait_for("worker-0 has left", lambda: "worker-0" not in read_workers(run)["workers"])
        assert "worker-0" not in read_status(run)["workers"], "nothing is reported of it any more"
        story.left_at = read_status(run)["step"]
        wait_for("ten more steps", lambda: reached(story.left_at + 10))
        story.requests.append(requested())
        stop_run(run, TIMEOUT_S)
        story.exit_code = process.wait(timeout=TIMEOUT_S)
        story.requests.append(requested())
    story.output = (root / "output").read_text()
    return story


def commanded(run: Run, *words: str) -> dict[str, Any]:
    """What the command prints."""
    command = [sys.executable, "-m", "sparring", "workers", str(run.path), *words, "--json"]
    reported: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return reported


def endless(root: Path, lockstep: bool = False, **groups: Any) -> Config:
    """So many epochs that the test ends it, of 15 tickets each."""
    train = {"epochs": 10_000, "max_steps": None, "batch_size": 100}
    alone = {"count": 1, "threads": 1}
    attack, staleness = {"steps": 3, "warmup_epochs": 0.5}, {"trainer_attacks": "never", "lockstep": lockstep}
    model = {"name": resting.NAME}
    return small(root, train=train, attack=attack, staleness=staleness, workers=alone, model=model, **groups)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """On a Ray of the run's own."""
    root = tmp_path_factory.mktemp("local")
    return tell(root, endless(root), most=2)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """On a cluster whose first node has room for trainer and one worker; a second one comes in mid-run."""
    root, patch = tmp_path_factory.mktemp("cluster"), pytest.MonkeyPatch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})

    def add_node(story: Story) -> None:
        story.waiting = {name: fields["state"] for name, fields in read_workers(story.run)["workers"].items()}
        cluster.add_node(num_cpus=2)

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with EmbeddedServer(maxmemory=512 << 20) as server:
            patch.setenv("ELASTIC_TEST_PASSWORD", server.password)
            queue = {"redis_url": server.url, "password_env": "ELASTIC_TEST_PASSWORD"}
            # In lockstep staleness is d whoever attacks: three workers of a step of one shard, on few cores, overtake
            # each other beyond the bound else, and shards would be dropped for that.
            config = endless(root, lockstep=True, queue=queue, ray={"address": cluster.address})
            yield tell(root, config, 3, add_node, requested_actors)
    finally:
        patch.undo()
        ray.shutdown()
        cluster.shutdown()


def requested_actors() -> int:
    """How many actors Ray's autoscaler is asked to have room for."""
    asked = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    return len(json.loads(asked)) if asked else 0


@pytest.fixture(params=["local", "clustered"])
def story(request: pytest.FixtureRequest) -> Story:
    reported: Story = request.getfixturevalue(request.param)
    return reported


def test_tickets_reach_the_workers_that_came_and_the_trainer_was_not_restarted(story: Story) -> None:
    assert story.exit_code == 0, story.output
    workers = {name for line in steps_of(story.run) for name in line["workers"]}
    assert workers == story.served == {f"worker-{number}" for number in range(story.most)}
    assert len(story.trainers) == 1 and {line["fence"] for line in steps_of(story.run)} == {1}


def test_no_example_is_used_twice_and_nothing_is_dropped_for_those_who_left(story: Story) -> None:
    epochs = epochs_of(story.run)
    last = max(epochs)
    assert all(epochs[epoch] == Counter(range(15)) for epoch in range(last))
    assert max(epochs[last].values()) == 1
    summary = json.loads((story.run.path / "summary.json").read_text())
    of_overload = {"stale"}  # on few cores workers may overtake each other beyond the bound
    assert summary["shards_dropped_by_reason"].keys() <= of_overload and summary["shards_set_aside"] == 0
    assert summary["staleness_max"] <= summary["max_staleness"]


def test_a_worker_that_was_drained_gets_no_more_tickets(story: Story) -> None:
    waiting = 4 + story.most  # steps that its last shards may have waited for: the bound, and those in flight
    late = [line for line in steps_of(story.run) if line["step"] > story.left_at + waiting]
    assert late and not any("worker-0" in line["workers"] for line in late)


def test_a_resume_goes_on_with_the_last_target_of_workers(story: Story) -> None:
    assert config_of(story.run).workers.count == story.most - 1
    with pytest.raises(UsageError, match=r"is not running; `sparring resume .* --workers N` continues it"):
        change_workers(story.run, "set", 2)


def test_workers_wait_for_a_node_and_serve_once_it_is_there(clustered: Story) -> None:
    assert sorted(clustered.waiting.values()) == ["serving", "starting", "starting"]


def test_the_autoscaler_is_asked_for_the_target_and_for_nothing_at_the_end(clustered: Story) -> None:
    assert clustered.requests == [1 + 1, 1 + 3, 1 + 2, 0]
