"""Each role can do all that it needs, and nothing that it need not, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from redis.exceptions import NoPermissionError

from sparring.attacks import PGD
from sparring.errors import UsageError
from sparring.queue.access import COMMANDS, ROLES, Login, Role, pattern_of, read_login, rules_of, to_line, user_of
from sparring.queue.connection import QueueUnavailable, connect
from sparring.queue.messages import Controls, Key, Lease, Piece, PieceVerdict, Shard, Stop, Ticket
from sparring.queue.orders import Begin, Orders
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport, prefix_of
from tests.support.queues import opened

NAME, RUN, OTHER = "some.run", "some.run-0123abcd", "another-0123abcd"
Client = Callable[[Role], redis.Redis]


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    """Clients by role of the users for runs called NAME."""
    made: list[redis.Redis] = []

    def one(role: Role) -> redis.Redis:
        made.append(connect(server.url, Login(user_of(role, NAME), f"word of {role}"), 5.0))
        return made[-1]

    with server.client() as admin:
        for role in ROLES:
            admin.execute_command("ACL", "SETUSER", user_of(role, NAME), *rules_of(role, NAME, f"word of {role}"))
        for run in (RUN, OTHER):
            admin.set(f"{prefix_of(run)}fence", 1)
        admin.script_flush()
        yield one
        for each in made:
            each.close()
        admin.acl_deluser(*(user_of(role, NAME) for role in ROLES))
        admin.flushall()


def side(client: redis.Redis, **options: Any) -> Transport:
    return Transport(client, RUN, lease_s=30.0, timeout_s=5.0, **options)


def refused(client: Any, *command: Any) -> bool:
    """Whether the server says that this user may not."""
    try:
        client.execute_command(*command)
    except NoPermissionError:
        return True
    except redis.ResponseError as error:
        in_script = "ACL failure", "can't access at least one of the keys"
        return any(words in str(error) for words in (*in_script, "DEBUG command not allowed"))
    return False


def ticket(number: int, fence: int) -> Ticket:
    return Ticket(Key(0, number, 0), fence, 0, (1, 2), "f")


def product(lease: Lease) -> Shard:
    delta, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    return Shard(lease.ticket.key, lease.fence, 0, 0, PGD(0.1).record, delta, labels, lease.worker)


def leased(worker: Transport) -> Lease:
    lease = worker.lease("w", 1.0)
    assert isinstance(lease, Lease)
    return lease


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_goes_through_all_that_its_roles_do(client: Client, parts: int, server: EmbeddedServer) -> None:
    trainer, worker = side(client("trainer"), parts=parts), side(client("worker"), parts=parts)
    reader = side(client("reader"))
    trainer.load_scripts()
    worker.heartbeat("w", {"shards": 0})
    fence = opened(trainer)
    worker.check_protocol()
    trainer.change_worker_target("start", 2)
    trainer.put_weights(fence, 0, Controls(0.1, 0.0), b"weights", 2)
    trainer.issue([ticket(number, fence) for number in range(6)])
    assert worker.target_count() == 2 and worker.stopping("w") is None
    assert worker.newer_weights((fence, -1), 1.0) is not None and worker.weights((fence, 0), 1.0) is not None
    assert worker.hand_back(leased(worker)) and worker.fail(leased(worker), "E: x")
    assert worker.refuse(leased(worker), "queue_full", "no room")
    lease = leased(worker)
    assert worker.renew(lease) and worker.commit(lease, product(lease))
    assert isinstance(trainer.receive(1.0, part=lease.ticket.key.number % parts), Shard)
    pieces = [Piece(fence, 0, 0, "f")]
    trainer.put_weights(fence, 0, Controls(0.0), b"judged", 1, "judged")
    trainer.pieces().put_out(pieces, anew=True)
    assert worker.weights((fence, 0), 1.0, "judged") is not None and worker.pieces().take() == pieces[0]
    assert worker.pieces().tell(PieceVerdict(fence, 0, 0, (True,), (False,), "w"))
    assert len(trainer.pieces().gather(pieces, lambda number: 1)) == 1 and trainer.pieces().untaken() == 0
    local = trainer.lease_local("trainer")
    assert local is not None and trainer.finish_local(local)
    trainer.drop_worker("w")
    assert len(trainer.expired(fence)) == 3 and trainer.sizes().tickets == 1 and trainer.usage().memory_bytes > 0
    trainer.set_state({"step": 1})
    trainer.set_pool({"w": "serving"})
    assert reader.state() == {"step": 1} and reader.pool() == {"w": "serving"} and "w" in reader.heartbeats()
    assert reader.target_count() == 2
    with Closing(client("trainer")) as orders:
        orders.give(Begin(fence), fence)
        assert orders.next(1.0) == [Begin(fence)]
        assert orders.reported(0.0) == []
    trainer.request_stop()
    assert worker.lease("w", 0) is Stop.STOP and trainer.stop_requested()
    trainer.forget_worker("w")
    opened(trainer)
    trainer.forget()
    with server.client() as admin:
        assert not [key for key in admin.scan_iter() if key.startswith(prefix_of(RUN).encode())]


class Closing(Orders):
    """Orders of one group that are closed at the end."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, RUN, "group", timeout_s=5.0)

    def __enter__(self) -> Closing:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "command",
    [
        "CONFIG GET maxmemory",
        "CONFIG SET maxmemory 0",
        "FLUSHDB",
        "FLUSHALL",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "DEBUG SLEEP 0",
        "ACL LIST",
        "ACL SETUSER default nopass",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "MONITOR",
        "SHUTDOWN NOSAVE",
        "REPLICAOF 127.0.0.1 1",
        "SAVE",
        "SUBSCRIBE anything",
        "EVAL return 0",
        f"GET {prefix_of(OTHER)}fence",
        f"SET {prefix_of(OTHER)}fence 1",
        f"UNLINK {prefix_of(OTHER)}fence",
        "GET anything",
        f"GET {prefix_of(NAME + '-x-0123abcd')}fence",
    ],
)
def test_no_role_reaches_other_runs_or_the_server(client: Client, role: Role, command: str) -> None:
    assert refused(client(role), *command.split())


@pytest.mark.parametrize(
    "command",
    [
        "SET fence 2",
        "SET state {}",
        "SET pool {}",
        "HSET control stop 1",
        "HSET worker_target count 0",
        "HSET meta protocol 0",
        "UNLINK fence",
        "UNLINK weights",
        "XADD weights 9-9 arrays forged",
        "XADD orders:group * order forged",
        "XRANGE orders:group - +",
        "GET payload:1:0:0:0",
        "GET state",
        "HGETALL returned",
        "ZRANGE ready:1 0 -1",
    ],
)
def test_a_worker_neither_writes_what_is_the_trainers_nor_reads_what_others_sent(client: Client, command: str) -> None:
    name, key, *rest = command.split()
    assert refused(client("worker"), name, prefix_of(RUN) + key, *rest)


def test_a_worker_runs_no_script_of_its_own_and_scripts_give_it_no_further_rights(client: Client) -> None:
    trainer, worker = side(client("trainer")), client("worker")
    assert refused(worker, "SCRIPT", "LOAD", "while true do end")
    trainer.load_scripts()
    shas = {name: script.sha for name, script in trainer._scripts.items()}
    assert refused(worker, "EVALSHA", shas["write"], 1, f"{prefix_of(RUN)}state", "{}")
    names = ["fence", "tickets", "wake", "leases", "owners", "returned", "control", "weights", "meta"]
    keys = [f"{prefix_of(RUN)}{name}" for name in names]
    assert refused(worker, "EVALSHA", shas["open"], len(keys), *keys, 5, 1, prefix_of(RUN), 1)
    assert refused(worker, "EVALSHA", shas["lease"], 0, prefix_of(OTHER), "w", 1000, 0)


@pytest.mark.parametrize(
    "command",
    [
        *("SET state {}", "HSET heartbeat w x", "HSET control stop 1", "UNLINK state", "LPOP tickets", "EVALSHA 0 0"),
        *("GET fence", "HGETALL control", "XRANGE weights - +", "GET payload:1:0:0:0"),
    ],
)
def test_a_reader_writes_nothing_and_reads_neither_weights_nor_shards(client: Client, command: str) -> None:
    name, key, *rest = command.split()
    assert refused(client("reader"), name, prefix_of(RUN) + key, *rest)


def test_a_worker_waits_for_the_trainer_where_the_server_does_not_know_the_scripts(client: Client) -> None:
    """As after a restart of the server: it must neither fail for good nor need a right of its own."""
    worker = side(client("worker"))
    worker.timeout_s = 0.3
    began = time.monotonic()
    with pytest.raises(QueueUnavailable, match="NoScriptError"):
        worker.heartbeat("w", {})
    assert time.monotonic() - began < 5
    side(client("trainer")).load_scripts()
    worker.heartbeat("w", {})


def test_rules_are_of_runs_of_that_name_alone_and_of_all_runs_without_one() -> None:
    assert pattern_of("a*b[c]") == "sparring:{a\\*b\\[c\\]-" + "[0-9a-f]" * 8 + "}:"
    assert pattern_of(None) == "sparring:{*}:"
    with pytest.raises(UsageError, match=r"'my run': rules of Redis cannot contain a space.*run\.name"):
        pattern_of("my run")
    assert user_of("worker", "r") == "sparring-r-worker" and user_of("worker", None) == "sparring-worker"


def test_rules_hold_no_password_and_no_category_of_commands() -> None:
    for role in ROLES:
        rules = rules_of(role, None, "a password")
        assert not any("a password" in rule or "@" in rule or "nopass" in rule for rule in rules)
    assert "script|load" not in COMMANDS["worker"].split()


def test_a_login_comes_back_from_its_file_and_is_shown_without_its_password(tmp_path: Path) -> None:
    login = Login("sparring-worker", "secret:with signs")
    (tmp_path / "worker").write_text(to_line(login))
    assert read_login(tmp_path, "worker") == login and "secret" not in repr(login)
    (tmp_path / "reader").write_text("alone\n")
    with pytest.raises(UsageError, match=r"queue\.access = .*reader does not hold a user and a password"):
        read_login(tmp_path, "reader")
    with pytest.raises(UsageError, match=r"queue\.access = .*trainer: No such file.*sparring access"):
        read_login(tmp_path, "trainer")
