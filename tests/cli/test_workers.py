"""`sparring workers`: who there is, and how many there shall be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.config import new_run
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.runs import Run
from tests.support.commands import Say
from tests.support.runs import small


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ([], "engine = 'sync': "),
        (["set", "2"], "trains in one process and has no workers"),
        (["set"], "set : a whole number of workers is needed, 0 or more"),
        (["set", "two"], "set two: a whole number of workers is needed, 0 or more"),
        (["set", "-1"], "set -1: a whole number of workers is needed, 0 or more"),
        (["add", "0"], "add 0: a whole number of workers is needed, 1 or more"),
        (["drain"], "drain needs the name of a worker; `sparring workers RUN` lists them"),
    ],
)
def test_workers_that_cannot_be_are_refused(say: Say, finished: Path, words: list[str], reported: str) -> None:
    said = say("workers", finished, *words)
    assert said.code == 2 and reported in said.complaint and said.out == ""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Run, Transport]]:
    """A run that this process holds, with a queue of its own; two workers are wanted and one has reported."""
    run = new_run(small(tmp_path, run={"name": "served"}))
    with EmbeddedServer(maxmemory=64 << 20) as server, run.owned():
        run.write_json(
            run.connection.name,
            {"url": server.url, "logins": {role: [None, server.password] for role in ("trainer", "reader")}},
        )
        transport = Transport(server.client(), run.id, lease_s=5.0, timeout_s=5.0)
        transport.change_worker_target("start", 2)
        transport.set_pool({"worker-0": "serving", "worker-1": "starting"})
        transport.heartbeat("worker-0", {"shards": 7, "version": 3, "pid": 42, "node": "node-a"})
        yield run, transport
        transport.close()


def test_workers_are_shown_with_what_they_do_and_did(say: Say, served: tuple[Run, Transport]) -> None:
    said = say("workers", served[0].path)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "target: 2 workers; serving: 1",
        "  worker-0: serving, 7 shards, version 3, pid 42 on node-a",
        "  worker-1: starting",
    ]


def test_a_single_worker_is_one(say: Say, served: tuple[Run, Transport]) -> None:
    assert say("workers", served[0].path, "set", 1).out.splitlines()[0] == "target: 1 worker; serving: 1"


def test_a_number_is_set_added_to_and_falls_by_one_for_a_worker_that_leaves(
    say: Say, served: tuple[Run, Transport]
) -> None:
    run, transport = served
    for words, wanted in ((["set", "4"], 4), (["add"], 5), (["add", "2"], 7), (["drain", "worker-1"], 6)):
        said = say("workers", run.path, *words, "--json")
        assert said.code == 0 and json.loads(said.out)["wanted"] == wanted == transport.target_count()
    target = transport.worker_target()
    assert target is not None and target.leaving == {"worker-1"}


def test_a_worker_that_there_is_not_and_a_run_that_is_evaluated_are_refused(
    say: Say, served: tuple[Run, Transport]
) -> None:
    run, transport = served
    said = say("workers", run.path, "drain", "worker-9")
    assert said.code == 2 and "has no such worker. There are worker-0, worker-1." in said.complaint
    transport.set_state({"phase": "evaluating"})
    said = say("workers", run.path, "set", "3")
    assert said.code == 2 and "it needs no workers now" in said.complaint and transport.target_count() == 2
