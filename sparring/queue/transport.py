"""The queue in Redis: tickets to the workers, shards back, leases by the server's clock.

Redis stores the queue; the ledger decides. Every control write is one Lua script (sparring/queue/lua) that also works
when memory is full; only the SET of a payload can be refused. A lost reply does no harm: either the repeated script
changes nothing, or the lease of the attempt expires and its ticket is issued again.

The trainer loads the scripts. A worker's user of Redis may call them but load none (sparring/queue/access.py): it waits
for the trainer where a server does not know them yet.

All keys begin with `sparring:{run}:`; the braces are the hash tag:

    fence tickets wake leases owners returned            the queue itself; wake: for idle workers
    weights                                              the last snapshots, if they go through the queue
    ready:FENCE payload:FENCE:MEMBER                     shards; MEMBER is epoch:number:attempt. Payloads may be on
                                                         servers of their own: queue/payloads.py
    arrived:FENCE                                        wakes the trainer
    ready:FENCE:PART arrived:FENCE:PART                  the same where several trainers share the steps
    heartbeat state control meta                         status and control
    worker_target pool                                   target number of workers; the current workers
    pieces verdicts judged                               rolling evaluation, see queue/pieces.py
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hmac import compare_digest
from itertools import count
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import msgpack  # type: ignore[import-untyped]
import redis
from redis import exceptions as failures

from sparring.errors import SparringError
from sparring.queue.codec import (
    PROTOCOL,
    Claims,
    CodecError,
    Objection,
    Wire,
    decode_shard,
    decode_ticket,
    encode_shard,
    encode_ticket,
)
from sparring.queue.connection import QueueRefused, QueueUnavailable, answered, describe
from sparring.queue.messages import (
    Controls,
    Key,
    Lease,
    Missing,
    Returned,
    Room,
    Shard,
    Sizes,
    Stop,
    Ticket,
    Usage,
    Weights,
    WorkerTarget,
    part_of,
)
from sparring.queue.parsing import (
    Refused,
    count_of,
    heartbeat_of,
    json_of,
    key_of,
    printable,
    returned_of,
    target_of,
    weights_of,
)
from sparring.queue.payloads import NoPayloadServer, Payloads
from sparring.queue.pieces import Pieces, Scripts
from sparring.queue.signature import signed, tag_of, verified

T = TypeVar("T")
log = logging.getLogger(__name__)

LUA = Path(__file__).parent / "lua"
MAX_BLOCK_S = 0.5
EXACT_POLL_S, REFUSED_POLL_S = 0.005, 0.5
NO_DEADLINE_S = 1e9
VERSIONS_PER_EPOCH = 2**31  # a ready shard's score is epoch · 2³¹ + version: exact in a double up to epoch 2²²


class QueueFull(SparringError):
    """The server's memory stayed full for longer than queue.timeout_s."""


class QueueLost(SparringError):
    """The server was restarted empty: all issued and ready shards are lost."""


class FencedOut(SparringError):
    """A later start or resume of the run has taken over."""


Received = Shard | Missing
Stream = Literal["weights", "judged"]  # the weights that workers attack under; those that are judged
TargetVerb = Literal["start", "set", "add", "drain", "leave"]


class Transport:
    """One side of the queue of one run. Thread-safe, but only one thread per fence and part may `receive`.

    parts: number of trainers; each receives the shards of its own part. payload_servers: clients of the servers that
    keep the payloads; without, they are beside the rest.
    """

    def __init__(
        self,
        client: redis.Redis,
        run: str,
        *,
        lease_s: float,
        timeout_s: float,
        wire: Wire = "int8",
        secret: bytes = b"",
        parts: int = 1,
        payload_servers: Sequence[redis.Redis] = (),
    ) -> None:
        self.lease_s, self.timeout_s, self.wire, self.secret = lease_s, timeout_s, wire, secret
        self.parts = parts
        self.refused: Counter[str] = Counter()  # entries that were not what they should be, by what they were to be
        self.fence = 0
        self._client = client
        self._redis: Any = client  # its methods are also typed for the asynchronous client
        self._prefix = prefix_of(run)
        self._payloads = Payloads(payload_servers, self._prefix) if payload_servers else None
        self._scripts = {path.stem: client.register_script(path.read_text()) for path in LUA.glob("*.lua")}
        self._requests = count(1)
        self._acknowledged: list[bytes] = []
        self._taken: dict[str, bytes] = {}  # by fence and part: the received member that is not removed yet

    def current_fence(self) -> int:
        """The fence that is in force; 0: no trainer has opened the queue, the server was restarted empty, or what it
        holds there is no fence, which `open` replaces."""
        try:
            found = self._retry(lambda: self._redis.get(self._key("fence")))
        except QueueRefused:  # a key of another kind
            found = b"of another kind"
        return self._checked(count_of(found, "fence")) or 0

    def open(self, fence: int) -> None:
        """Put `fence` in force, empty the queue, and become its trainer.

        Raises:
            FencedOut: one as high or higher is in force.
        """
        names = "fence tickets wake leases owners returned control weights pieces verdicts judged meta"
        self._accepted(self._run("open", names, fence, PROTOCOL, self._prefix, self.parts), fence)
        self.load_scripts()
        self.fence = fence
        self._acknowledged = []
        self._taken.clear()
        if self._payloads is not None:
            self._payloads.clear(but=fence)

    def load_scripts(self) -> None:
        """Let the server know all scripts, so that workers can call them."""
        for script in self._scripts.values():
            self._retry(partial(self._redis.script_load, script.script))

    def issue(self, tickets: Sequence[Ticket]) -> None:
        """Append tickets, all of one fence, and wake idle workers; repeated attempts go to the front.

        Raises:
            FencedOut: their fence is not the current one.
            QueueLost: the server was restarted empty.
        """
        if not tickets:
            return
        fence = tickets[0].fence
        ordered = sorted(tickets, key=lambda ticket: ticket.key.attempt == 0)
        blobs = [signed(self.secret, encode_ticket(ticket)) for ticket in ordered]
        entries = [
            f"{fence} {_member(ticket.key)} ".encode() + blob for ticket, blob in zip(ordered, blobs, strict=True)
        ]
        again = sum(ticket.key.attempt > 0 for ticket in tickets)
        request = f"{fence}:{next(self._requests)}"
        self._accepted(self._run("issue", "fence tickets wake meta", fence, request, again, *entries), fence)

    def put_weights(
        self, fence: int, version: int, controls: Controls, arrays: bytes, keep: int, stream: Stream = "weights"
    ) -> None:
        """Publish a snapshot and delete all but the last `keep`; raises as `issue` does."""
        packed = msgpack.packb(controls)
        tag = tag_of(self.secret, f"{fence}-{version}".encode(), packed, arrays)
        self._accepted(self._run("put_weights", f"fence {stream}", fence, version, keep, packed, tag, arrays), fence)

    def newer_weights(self, order: tuple[int, int], timeout_s: float, stream: Stream = "weights") -> Weights | None:
        """Wait for a snapshot newer than `order` (fence, version); returns the newest, or None after the timeout."""
        deadline = time.monotonic() + timeout_s
        after = f"{order[0]}-{order[1]}" if order[1] >= 0 else "0"
        while True:
            left_s = deadline - time.monotonic()
            block_ms = _milliseconds(min(max(left_s, 0), MAX_BLOCK_S))
            found = self._retry(partial(self._redis.xread, {self._key(stream): after}, block=block_ms))
            if found:
                ((_, entries),) = found
                for entry in reversed(entries):
                    if (weights := self._weights(*entry)) is not None:
                        return weights
                after = entries[-1][0].decode()
            if left_s <= MAX_BLOCK_S:
                return None

    def weights(self, order: tuple[int, int], timeout_s: float, stream: Stream = "weights") -> Weights | None:
        """Wait for the snapshot with exactly this `order` (fence, version); None after the timeout."""
        deadline, name = time.monotonic() + timeout_s, f"{order[0]}-{order[1]}"
        while True:
            found = self._retry(lambda: self._redis.xrange(self._key(stream), name, name))
            weights = self._weights(*found[0]) if found else None
            if weights is not None or time.monotonic() > deadline:
                return weights
            time.sleep(REFUSED_POLL_S if found else EXACT_POLL_S)

    def receive(
        self, timeout_s: float, fence: int | None = None, objection: Objection = lambda claims: "", part: int = 0
    ) -> Received | None:
        """Wait for a ready shard of a part and return the one of the lowest version; None after the timeout.

        The shard is removed from Redis by the next call. `fence` is by default that of the last `open`; a thread that
        may still run after the next `open` must pass its own. objection: why a shard is refused by what it says of
        itself, before memory is taken for it.
        """
        fence, deadline = self.fence if fence is None else fence, time.monotonic() + timeout_s
        place = self._place(fence, part)
        while True:
            first = self._retry(partial(self._first_ready, fence, place))
            if first is not None:
                member, payload = first
                self._taken[place] = member
                key = self._checked(key_of(member))
                if key is not None:
                    return _received(key, fence, payload, self.secret, objection)
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            block_s = max(0.001, min(left_s, MAX_BLOCK_S))
            self._retry(partial(self._redis.blpop, self._key(f"arrived:{place}"), timeout=block_s))

    def expired(self, fence: int) -> list[Returned]:
        """Attempts that ended without a shard, each reported once; raises as `issue` does.

        After an interrupted call attempts may be reported again: the ledger ignores those that it has already lost.
        """
        limits = _milliseconds(self.lease_s), _milliseconds(NO_DEADLINE_S)
        reply = self._run("expired", "fence leases owners returned", fence, *limits, *self._acknowledged)
        if isinstance(reply, int):
            self._accepted(reply, fence)
            return []
        self._acknowledged = members = reply[::2]
        found = [self._checked(returned_of(*each)) for each in zip(members, reply[1::2], strict=True)]
        return [each for each in found if each is not None]

    def lease_local(self, owner: str, room: Room = "any") -> Lease | None:
        """Lease a ticket for the trainer itself, if there is `room` for the next one; also after a request to stop.

        The lease has no deadline: where the trainer dies, the next one opens the queue under another fence.
        """
        if room == "none":
            return None
        lease = self._lease(owner, NO_DEADLINE_S, check_stop=False, room=room)
        return None if isinstance(lease, Stop) else lease

    def finish_local(self, lease: Lease) -> bool:
        """End a local lease, whose shard stays in this process. False: the lease was lost, the shard must not be used,
        and `expired` reports the attempt."""
        return bool(self._of_lease("finish", lease))

    def sizes(self) -> Sizes:
        """The numbers of tickets, leases and ready shards, for metrics."""

        def ask() -> list[int]:
            pipe = self._redis.pipeline(transaction=False)
            pipe.llen(self._key("tickets")).zcard(self._key("leases"))
            for part in range(self.parts):
                pipe.zcard(self._key(f"ready:{self._place(self.fence, part)}"))
            reply: list[int] = pipe.execute()
            return reply

        tickets, leased, *ready = self._retry(ask)
        return Sizes(tickets, leased, sum(ready))

    def usage(self) -> Usage:
        """Memory and network use of the server, and of the payload servers that answer, for metrics."""
        infos = [self._retry(lambda: self._redis.info("memory", "stats"))]
        infos += [] if self._payloads is None else self._payloads.usage()
        used, limits, received, sent = (
            [int(info[name]) for info in infos]
            for name in ("used_memory", "maxmemory", "total_net_input_bytes", "total_net_output_bytes")
        )
        down = 0 if self._payloads is None else self._payloads.down()
        return Usage(sum(used), sum(limits) if all(limits) else None, sum(received), sum(sent), down)

    def check_protocol(self) -> None:
        """Refuse a trainer with another protocol version. If no trainer has opened the queue yet, there is no check."""
        found = self._retry(lambda: self._redis.hget(self._key("meta"), "protocol"))
        if found is not None and found != str(PROTOCOL).encode():
            raise SparringError(
                f"the trainer uses queue protocol {found.decode(errors='replace'):.20}, this worker {PROTOCOL}: "
                f"install the same version of sparring on both."
            )

    def lease(self, worker: str, wait_s: float, room: Room = "any") -> Lease | Stop | None:
        """Wait for a ticket that `worker` has `room` for; None after `wait_s`, Stop if it must stop."""
        deadline = time.monotonic() + wait_s
        while True:
            lease = self._lease(worker, self.lease_s, check_stop=True, room=room)
            left_s = deadline - time.monotonic()
            if lease is not None or left_s <= 0:
                return lease
            block_s = max(0.001, min(left_s, MAX_BLOCK_S))
            self._retry(partial(self._redis.blpop, self._key("wake"), timeout=block_s))

    def renew(self, lease: Lease) -> bool:
        """Extend the deadline. False: the lease is lost, and its shard would be refused."""
        return bool(self._of_lease("renew", lease, _milliseconds(self.lease_s)))

    def commit(self, lease: Lease, shard: Shard) -> bool:
        """Send a shard. False: the lease was lost and the shard is fenced out.

        Waits while the server's memory is full, or no payload server takes it, renewing the lease.

        Raises:
            QueueFull: memory stayed full for queue.timeout_s. QueueUnavailable: no payload server answered for as long.
        """
        payload = signed(self.secret, encode_shard(shard, self.wire))
        score = shard.key.epoch * VERSIONS_PER_EPOCH + shard.version
        deadline, pause_s = time.monotonic() + self.timeout_s, 0.01
        while True:
            try:
                return self._pushed(lease, payload, score)
            except (failures.OutOfMemoryError, NoPayloadServer) as error:
                if time.monotonic() > deadline:
                    self._full(len(payload), error)
            if not self.renew(lease):
                return False
            time.sleep(min(pause_s, self.lease_s / 4))  # there is no notification of freed memory
            pause_s = min(2 * pause_s, 0.5)

    def hand_back(self, lease: Lease) -> bool:
        """Give the ticket back unfinished; this does not count as a failure. False: the lease was already lost."""
        return self._release(lease, "handed_back", "")

    def fail(self, lease: Lease, error: str) -> bool:
        """Give the ticket back because its attack failed with `error` (its type first, then a colon)."""
        return self._release(lease, "failed", error[:2000])

    def refuse(self, lease: Lease, reason: str, detail: str) -> bool:
        """Give the ticket back for a `reason` that is not its attack's; this does not count as a failure."""
        return self._release(lease, reason, detail[:2000])

    def drop_worker(self, worker: str) -> None:
        """End all leases of a worker that is known to be dead."""
        self._run("drop_worker", "leases owners", worker)

    def heartbeat(self, worker: str, fields: Mapping[str, Any]) -> None:
        """Store the heartbeat of a worker (plain types)."""
        self._run("heartbeat", "", self._prefix, worker, msgpack.packb(dict(fields)))

    def heartbeats(self) -> dict[str, dict[str, Any]]:
        """The last heartbeat of each worker, with its age `age_s` by the server's clock."""
        now, _ = self._retry(self._redis.time)
        entries = self._retry(lambda: self._redis.hgetall(self._key("heartbeat")))
        found = {printable(name): self._checked(heartbeat_of(entry, now)) for name, entry in entries.items()}
        return {name: fields for name, fields in found.items() if fields is not None}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Publish the run's state for `sparring status`."""
        self._run("write", "state", json.dumps(dict(state)))

    def state(self) -> dict[str, Any] | None:
        """The run's state, or None if none was published."""
        text = self._retry(lambda: self._redis.get(self._key("state")))
        return None if text is None else self._checked(json_of(text, "state"))

    def request_stop(self, worker: str | None = None) -> None:
        """Request that the run stops, or that one of its workers leaves; `open` cancels the request."""
        self._run("write", "control", "stop" if worker is None else f"stop:{worker}", 1)

    def stop_requested(self) -> bool:
        """Whether the run must stop."""
        return bool(self._retry(lambda: self._redis.hexists(self._key("control"), "stop")))

    def stopping(self, worker: str) -> Stop | None:
        """Whether this worker must stop or leave; `lease` reports it too."""
        run, own = self._retry(lambda: self._redis.hmget(self._key("control"), "stop", f"stop:{worker}"))
        if run is not None:
            return Stop.STOP
        return None if own is None else Stop.DRAIN

    def worker_target(self) -> WorkerTarget | None:
        """The current target; None if the run has not begun, or if its server was restarted empty."""
        return self._checked(target_of(self._retry(lambda: self._redis.hgetall(self._key("worker_target")))))

    def target_count(self) -> int | None:
        """The number of the worker target."""
        target = self.worker_target()
        return None if target is None else target.workers

    def change_worker_target(self, verb: TargetVerb, value: int | str, least: int = 0, most: int = 0) -> int:
        """Change the target: `start` at, `set` to or `add` a number; `drain` a worker by name and lower the number, or
        mark a worker to `leave` without a change of the number.

        Returns the new number; -1 if there is no target yet, -2 if it would be outside `least` to `most`.
        """
        return int(self._run("worker_target", "worker_target", verb, value, least, most))

    def set_pool(self, states: Mapping[str, str]) -> None:
        """Publish the state of each worker."""
        self._run("write", "pool", json.dumps(dict(states)))

    def pool(self) -> dict[str, str]:
        """The published state of each worker."""
        text = self._retry(lambda: self._redis.get(self._key("pool")))
        found = None if text is None else self._checked(json_of(text, "pool"))
        return {name: str(state) for name, state in (found or {}).items()}

    def forget_worker(self, worker: str) -> None:
        """Remove a worker that has left; later heartbeats of it are ignored."""
        self._run("write", "control", f"gone:{worker}", 1)
        self._retry(lambda: self._redis.hdel(self._key("heartbeat"), worker))

    def pieces(self) -> Pieces:
        """The pieces of the run's rolling evaluation, over the same connections."""
        return Pieces(
            self._redis, self._prefix, Scripts(self._run, self._retry, self._accepted, self._checked), self.secret
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        if self._payloads is not None:
            self._payloads.close()

    def forget(self) -> None:
        """Delete every key of the run; payloads that were never committed expire by themselves."""
        names = "fence leases owners meta tickets wake returned control weights heartbeat state worker_target pool"
        names += " pieces verdicts judged"
        self._run("forget", names, self._prefix)
        if self._payloads is not None:
            self._payloads.clear()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _retry(self, operation: Callable[[], Any]) -> Any:
        return answered(self._client, operation, self.timeout_s, self._prefix)

    def _run(self, script: str, names: str, *arguments: Any) -> Any:
        keys = [self._key(name) for name in names.split()]
        return self._retry(lambda: self._call(script, keys, arguments))

    def _of_lease(self, script: str, lease: Lease, *arguments: Any) -> int:
        member = _member(lease.ticket.key)
        return int(self._run(script, "", self._prefix, lease.fence, member, lease.worker, *arguments))

    def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Call a script; one that the server does not know is loaded by whoever may."""
        script = self._scripts[name]
        try:
            return self._redis.evalsha(script.sha, len(keys), *keys, *arguments)
        except failures.NoScriptError as unknown:
            try:
                self._redis.script_load(script.script)
            except failures.NoPermissionError:
                raise unknown from None
        return self._redis.evalsha(script.sha, len(keys), *keys, *arguments)

    def _accepted(self, reply: int, fence: int) -> None:
        require_accepted(self._client, reply, fence)

    def _lease(self, worker: str, seconds: float, *, check_stop: bool, room: Room) -> Lease | Stop | None:
        duration, again = _milliseconds(seconds), int(room == "again")
        reply = self._run("lease", "", self._prefix, worker, duration, int(check_stop), again)
        if reply is None or isinstance(reply, bytes):
            return None if reply is None else Stop(reply.decode())
        member, blob, fence = reply
        content = verified(self.secret, blob)
        try:
            if content is None:
                raise CodecError("a ticket's checksum is not that of this run's trainer")
            ticket = decode_ticket(content)
            if (_member(ticket.key).encode(), ticket.fence) != (member, int(fence)):
                raise CodecError(f"the ticket {member!r:.40} is that of {ticket.key} under fence {ticket.fence}")
        except CodecError as error:
            self._checked(Refused("ticket", str(error)))
            reason = f"ticket_corrupt\n{worker}\n{error}"
            self._run("release", "", self._prefix, int(fence), member, worker, reason)
            return None
        return Lease(ticket, int(fence), worker)

    def _release(self, lease: Lease, reason: str, detail: str) -> bool:
        return bool(self._of_lease("release", lease, f"{reason}\n{lease.worker}\n{detail}"))

    def _pushed(self, lease: Lease, payload: bytes, score: int) -> bool:
        """Send a payload and commit it; raises OutOfMemoryError or NoPayloadServer, with nothing done."""
        if self._payloads is None:
            return bool(self._retry(partial(self._push, lease, payload, score)))
        key, name = lease.ticket.key, f"{lease.fence}:{_member(lease.ticket.key)}"
        self._payloads.put(name, key, payload)
        accepted = bool(self._retry(lambda: self._call("commit", (), self._committed(lease, score))))
        if not accepted:
            self._payloads.drop(name, key)
        return accepted

    def _committed(self, lease: Lease, score: int) -> tuple[Any, ...]:
        """The arguments of commit.lua."""
        place = self._place(lease.fence, part_of(lease.ticket.key, self.parts))
        elsewhere = int(self._payloads is not None)
        return self._prefix, lease.fence, _member(lease.ticket.key), lease.worker, score, place, elsewhere

    def _push(self, lease: Lease, payload: bytes, score: int) -> int:
        """SET with an expiry and the commit in one round trip; raises OutOfMemoryError, with nothing done."""
        name, arguments = f"payload:{lease.fence}:{_member(lease.ticket.key)}", self._committed(lease, score)
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(self._key(name), payload, px=4 * _milliseconds(self.lease_s))
        pipe.evalsha(self._scripts["commit"].sha, 0, *arguments)
        try:
            accepted: int = pipe.execute()[1]
        except failures.NoScriptError:  # the server does not know it yet
            accepted = self._call("commit", (), arguments)
        return accepted

    def _full(self, size: int, error: Exception) -> NoReturn:
        if isinstance(error, NoPayloadServer):
            raise QueueUnavailable(
                f"no server of queue.payload_urls took a shard of {size} bytes for queue.timeout_s = "
                f"{self.timeout_s:g} s ({error}). Check that they run and have room."
            ) from error
        raise QueueFull(
            f"Redis at {describe(self._client)} had no memory for a shard of {size} bytes for queue.timeout_s = "
            f"{self.timeout_s:g} s. Raise queue.maxmemory_mb (on a server of your own: maxmemory), keep large weights "
            f"out of it (queue.weights = 'object_store'), or lower staleness.depth, train.shards_per_step or "
            f"train.batch_size."
        ) from error

    def _checked(self, found: T | Refused) -> T | None:
        """What was found; a refusal is counted and logged."""
        if isinstance(found, Refused):
            self.refused[found.what] += 1
            log.warning("refused from the queue: %s: %s", found.what, found.reason)
            return None
        return found

    def _weights(self, name: bytes, fields: dict[bytes, bytes]) -> Weights | None:
        weights = self._checked(weights_of(name, fields))
        if weights is None:
            return None
        tag = tag_of(self.secret, name, fields[b"controls"], weights.arrays)
        if not compare_digest(fields.get(b"tag", b""), tag):
            return self._checked(Refused("weights", f"the checksum of {name!r:.40} is not that of this run's trainer"))
        return weights

    def _place(self, fence: int, part: int) -> str:
        """What follows `ready:` and `arrived:` in the names of a part's keys."""
        return str(fence) if self.parts == 1 else f"{fence}:{part}"

    def _first_ready(self, fence: int, place: str) -> tuple[bytes, bytes | None] | None:
        """The member with the lowest score and its payload, once the one before is taken out.

        It only looks, so a lost reply loses nothing. Two round trips: SORT_RO would need but one, from a user who may
        read the keys of all runs, and a script passes payloads on several times slower.
        """
        ready = self._key(f"ready:{place}")
        pipe = self._redis.pipeline(transaction=False)
        if (name := self._taken.get(place)) is not None:
            pipe.zrem(ready, name)
            if self._payloads is None:
                pipe.unlink(self._key(f"payload:{fence}:").encode() + name)
        ahead = 1 if self._payloads is None else self._payloads.ahead
        found = pipe.zrange(ready, 0, ahead - 1).execute()[-1]
        self._taken.pop(place, None)
        if self._payloads is not None:
            return _first_elsewhere(self._payloads, fence, name, found)
        if not found:
            return None
        return found[0], self._redis.get(self._key(f"payload:{fence}:").encode() + found[0])


def _first_elsewhere(
    payloads: Payloads, fence: int, before: bytes | None, ready: Sequence[bytes]
) -> tuple[bytes, bytes | None] | None:
    """The first of the ready members and its payload, while those of the next are under way; the one before goes."""

    def named(member: bytes) -> tuple[str, Key] | None:
        key = key_of(member)
        return None if isinstance(key, Refused) else (f"{fence}:{_member(key)}", key)

    if before is not None and (gone := named(before)) is not None:
        payloads.release(*gone)
    wanted = [named(member) for member in ready]
    payloads.fetch([each for each in wanted if each is not None])
    if not ready:
        return None
    return ready[0], None if wanted[0] is None else payloads.take(*wanted[0])


def require_accepted(client: redis.Redis, reply: int, fence: int) -> None:
    """Refuse the reply of a script that was called under another fence, or on a server that knows none.

    Raises:
        FencedOut, QueueLost: see there.
    """
    if reply == 0:
        raise FencedOut(
            f"this trainer's fence {fence} is no longer current: the run was started again elsewhere. Only one may go "
            f"on: give a copy of a run another folder name or queue.redis_url."
        )
    if reply < 0:
        raise QueueLost(
            f"Redis at {describe(client)} was restarted empty, or with older data; the queue of this run is gone."
        )


def prefix_of(run: str) -> str:
    """What all keys of a run begin with."""
    return f"sparring:{{{run}}}:"


def _received(key: Key, fence: int, payload: bytes | None, secret: bytes, objection: Objection) -> Received:
    if payload is None:
        return Missing(key, "payload_missing", fence=fence)
    content = verified(secret, payload)
    if content is None:
        return Missing(key, "payload_corrupt", "its checksum is not that of this run's workers", fence)

    def refused(claims: Claims) -> str:
        if (claims.key, claims.fence) != (key, fence):
            return f"it is that of {claims.key} under fence {claims.fence}"
        return objection(claims)

    try:
        return decode_shard(content, refused)
    except CodecError as error:
        return Missing(key, "payload_corrupt", str(error), fence)


def _member(key: Key) -> str:
    return f"{key.epoch}:{key.number}:{key.attempt}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
