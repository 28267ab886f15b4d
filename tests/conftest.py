"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sparring.config import Config, from_tree
from sparring.queue.server import EmbeddedServer
from tests.support.runs import Place

PASSWORD = "SPARRING_TEST_SHARED_PASSWORD"


def pytest_configure() -> None:
    """Five thousand tests are collected, and all are kept: a garbage collector that looks through them takes 7 s."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One HOME for the whole session: Ray reads ~/.ray and remembers what it found in this process."""
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if before is not None:
        os.environ["HOME"] = before


@pytest.fixture(autouse=True)
def no_token_left() -> Iterator[None]:
    """A Ray with a token that a test starts in this process leaves nothing behind: `shared_ray` has none."""
    before = os.environ.get("RAY_AUTH_MODE")
    yield
    assert os.environ.get("RAY_AUTH_MODE") == before


@pytest.fixture(scope="session")
def shared_ray(own_home: None) -> Iterator[Place]:
    """Puts a run onto a Ray and a queue that it shares with other tests: one of its own takes five seconds longer.

    They are started for the first run of the Ray engine; other engines' need none. The demo, the command line's tests
    and those that kill processes have a Ray of their own.
    """
    with ExitStack() as started:
        places: list[dict[str, Any]] = []

        def place(config: Config) -> Config:
            if config.engine != "ray":
                return config
            if not places:
                places.append(started.enter_context(ray_and_queue()))
            tree = config.model_dump(mode="json", exclude_none=True)
            return from_tree(tree | {group: tree[group] | values for group, values in places[0].items()})

        yield place


@contextmanager
def ray_and_queue() -> Iterator[dict[str, Any]]:
    """The settings that lead to them."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    head = {"num_cpus": 4, "object_store_memory": 256 << 20, "include_dashboard": False}
    head |= {"include_log_monitor": False, "no_monitor": True}  # nobody reads what they tell
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        with EmbeddedServer(maxmemory=512 << 20) as server:
            os.environ[PASSWORD] = server.password
            queue = {"redis_url": server.url, "password_env": PASSWORD}
            yield {"ray": {"address": cluster.address}, "queue": queue}
    finally:
        cluster.shutdown()
