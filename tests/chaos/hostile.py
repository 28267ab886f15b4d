"""Messages that are not what they should be, by the hundred thousand, through the codec, the parsers and the queue:
python -m tests.chaos.hostile [--messages N] [--seed S]

A *damaged* message was changed behind its checksum and must be refused, or be what was sent. A *forged* one has the
right checksum, as that of a worker with the run's secret: it is refused, or it is what its ticket asked for (key,
fence, attack, versions, number and shape) and stays within its ball. Nothing else may be raised than what the
function documents. Prints a table on standard output; exit code 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
import torch

from sparring.attacks import AttackRecord
from sparring.attacks.norms import project_ball
from sparring.engines.asynchronous.objections import objection
from sparring.errors import SparringError
from sparring.queue import orders
from sparring.queue.codec import Claims, CodecError, Wire, decode_shard, decode_ticket, encode_shard, encode_ticket
from sparring.queue.messages import Finish, Key, Missing, Piece, PieceVerdict, Shard, Ticket
from sparring.queue.parsing import (
    Refused,
    count_of,
    heartbeat_of,
    json_of,
    key_of,
    returned_of,
    target_of,
    weights_of,
)
from sparring.queue.pieces import piece_of, verdict_of
from sparring.queue.server import EmbeddedServer
from sparring.queue.signature import signed, verified
from sparring.queue.transport import Transport
from tests.chaos.mutations import LENGTH, damaged, forged_map, forged_shard

SECRET, STEP, SHAPE, COUNT = b"k" * 32, 12, (2, 4, 4), 3
ATTACKS = {norm: AttackRecord("pgd", norm, 8 / 255, 8 / 255, 10) for norm in ("linf", "l2")}
VIEWS = AttackRecord("augmix", "linf", 0.0, 0.0, 1)
TICKET = Ticket(Key(1, 2, 0), fence=3, version=11, indices=(0, 5, 59_999), fingerprint="a1b2")
PIECE = Piece(3, 11, 0, "a1b2")
VERDICT = msgpack.packb(("verdict", *PIECE[:3], [True] * COUNT, [True, False, True], "w0"))
SLACK = 1e-5  # of the radius
SLOWEST_S, MOST_GROWTH = 0.5, 128 << 20  # processor time of one message; of the process's memory, in bytes


@dataclass
class Tally:
    """What became of the messages of one kind."""

    sent: int = 0
    refused: int = 0
    same: int = 0
    allowed: int = 0
    slowest_s: float = 0.0
    violations: list[str] = field(default_factory=list)


Outcome = str  # refused, same, allowed, or what does not hold
Attempt = Callable[[random.Random], Outcome]


def shards() -> list[tuple[Shard, Wire]]:
    """Of every wire format and norm."""
    generator, made = torch.Generator().manual_seed(0), list[tuple[Shard, Wire]]()
    labels = torch.tensor([1, 2, 3])
    for norm, record in ATTACKS.items():
        wires: tuple[Wire, ...] = ("int8", "exact", "sign") if norm == "linf" else ("int8", "exact")
        for wire in wires:
            noise = torch.rand(COUNT, *SHAPE, generator=generator) * 2 - 1
            delta = project_ball(noise * record.radius, norm, record.radius)
            shard = Shard(TICKET.key, 3, 11, 11, record, delta, labels, "w0", 0.5, gradients=30)
            made.append((replace(shard, classes={"robust": 1, "outlier": 2}), wire))
    views = torch.randint(0, 256, (2, COUNT, *SHAPE), generator=generator, dtype=torch.uint8)
    made.append((Shard(TICKET.key, 3, 11, 11, VIEWS, torch.empty(0), labels, views=views), "int8"))
    return made


def tickets() -> list[Ticket]:
    """Plain, with starting points, and with a fresh finish."""
    starts = (b"\1" * 32, None, b"\x81" * 32)
    plain = (TICKET.key, TICKET.fence, TICKET.version, TICKET.indices, TICKET.fingerprint)
    return [TICKET, Ticket(*plain, starts=starts), Ticket(*plain, finish=Finish(12, 8 / 255))]


SHARDS = [encode_shard(shard, wire) for shard, wire in shards()]
TICKETS = [encode_ticket(ticket) for ticket in tickets()]


def object_to(claims: Claims) -> str:
    """What the trainer asks of a shard."""
    if (claims.key, claims.fence) != (TICKET.key, TICKET.fence):
        return "another key"
    return objection(claims, TICKET, SHAPE, STEP, lambda record: record in (*ATTACKS.values(), VIEWS))


def wrong_in(shard: Shard) -> Outcome:
    """What a shard must not be, though it was accepted; `allowed`: it is what its ticket asked for."""
    if (shard.key, shard.fence) != (TICKET.key, TICKET.fence) or not 11 <= shard.start_version <= shard.version <= STEP:
        return "a shard of another ticket, fence or version"
    if shard.labels.dtype != torch.int64 or shard.labels.shape != (COUNT,):
        return f"labels of {shard.labels.dtype} {tuple(shard.labels.shape)}"
    if shard.views is not None:
        same = shard.views.dtype == torch.uint8 and shard.views.shape == (2, COUNT, *SHAPE)
        return "allowed" if same and shard.attack == VIEWS else "views of another shape or attack"
    if shard.delta.dtype != torch.float32 or shard.delta.shape != (COUNT, *SHAPE):
        return f"δ of {shard.delta.dtype} {tuple(shard.delta.shape)}"
    order = {"linf": torch.inf, "l2": 2.0}.get(shard.attack.norm)
    if shard.attack not in ATTACKS.values() or order is None:
        return f"the attack {shard.attack}"
    sizes = torch.linalg.vector_norm(shard.delta.flatten(1).double(), ord=order, dim=1)
    inside = bool((sizes <= shard.attack.radius * (1 + SLACK)).all())  # also False for NaN
    return "allowed" if inside else f"δ of size {sizes.tolist()} in a ball of {shard.attack.radius}"


def damaged_shard(drawn: random.Random) -> Outcome:
    return _behind_its_checksum(SHARDS, drawn)


def damaged_ticket(drawn: random.Random) -> Outcome:
    return _behind_its_checksum(TICKETS, drawn)


def unsigned_shard(drawn: random.Random) -> Outcome:
    """Damage, and then the right checksum: the codec alone must hold."""
    return _decoded(damaged(drawn.choice(SHARDS), drawn.choice(SHARDS), drawn))


def forgery_of_shard(drawn: random.Random) -> Outcome:
    return _decoded(forged_shard(drawn.choice(SHARDS), drawn))


def forgery_of_ticket(drawn: random.Random) -> Outcome:
    blob = drawn.choice(TICKETS)
    blob = forged_map(blob, drawn) if drawn.random() < 0.7 else damaged(blob, drawn.choice(TICKETS), drawn)
    try:
        found = decode_ticket(blob)
    except CodecError:
        return "refused"
    numbers = [
        *found.key,
        found.fence,
        found.version,
        *found.indices,
        *([found.finish.version] if found.finish else []),
    ]
    exact = all(isinstance(number, int) and 0 <= number < 2**53 for number in numbers)
    rows = all(row is None or isinstance(row, bytes) for row in found.starts)
    whole = len(found.starts) in (0, len(found.indices)) and isinstance(found.fingerprint, str)
    return "allowed" if exact and rows and whole else f"the ticket {found}"


def weights(drawn: random.Random) -> Outcome:
    controls = msgpack.packb((8 / 255, 0.5, 0))
    fields = {b"controls": _one_of(forged_map(controls, drawn), damaged(controls, controls, drawn), drawn)}
    if drawn.random() < 0.9:
        fields[b"arrays"] = b"x" * 8
    return _parsed(weights_of(damaged(b"3-11", b"4-1", drawn) if drawn.random() < 0.3 else b"3-11", fields))


def heartbeat(drawn: random.Random) -> Outcome:
    fields = msgpack.packb({"shards": 1, "wait_seconds": {"ticket": 0.5}, "node": "a", "allocated": {}})
    forged = _one_of(forged_map(fields, drawn), damaged(fields, fields, drawn), drawn)
    found = heartbeat_of(b"%d " % drawn.choice((0, 5, 10**14)) + forged, 10)
    if not isinstance(found, Refused):
        json.dumps(found)
    return _parsed(found)


def control(drawn: random.Random) -> Outcome:
    """Members, counts, returned tickets, the worker target, state."""
    junk = damaged(
        drawn.choice((b"1:2:0", b"failed\nw0\nValueError", b'{"step": 1}', b"12")), b"99:99999999999:9", drawn
    )
    parse = drawn.choice(
        (
            lambda: key_of(junk),
            lambda: count_of(junk, "fence"),
            lambda: returned_of(b"1:2:0", junk),
            lambda: returned_of(junk, b"failed\nw0\nerror"),
            lambda: target_of({b"count": junk, b"leaving:" + junk: b"1"}),
            lambda: json_of(junk, "state"),
            lambda: json_of(b"[" * drawn.randrange(100_000), "state"),
        )
    )
    return _parsed(parse())


def order(drawn: random.Random) -> Outcome:
    """Between trainers, with the right checksum."""
    step = msgpack.packb((1, "Step", 3, [(0, 1, 0), (0, 2, 0)], (3, 3), (10, 10), None, 0))
    whole = drawn.choice((step, msgpack.packb((1, "Begin", 3)), msgpack.packb((2, "End"))))
    blob = memoryview(_one_of(forged_map(whole, drawn), damaged(whole, step, drawn), drawn))
    try:
        orders._order(blob)
    except CodecError:
        return "refused"
    return "allowed"


def record(drawn: random.Random) -> Outcome:
    """A rank's word of a shard that is missing."""
    whole = msgpack.packb(Missing(Key(0, 1, 0), "payload_missing", "", 3))
    blob = memoryview(_one_of(forged_map(whole, drawn), damaged(whole, whole, drawn), drawn))
    try:
        orders._record(b"missing", blob)
    except CodecError:
        return "refused"
    return "allowed"


def piece(drawn: random.Random) -> Outcome:
    """A piece of a rolling evaluation, with the right checksum."""
    whole = msgpack.packb(("piece", *PIECE))
    found = piece_of(_one_of(forged_map(whole, drawn), damaged(whole, VERDICT, drawn), drawn))
    if isinstance(found, Refused):
        return "refused"
    numbers = all(isinstance(each, int) and 0 <= each < 2**53 for each in found[:3])
    return "allowed" if numbers and isinstance(found.fingerprint, str) else f"the piece {found}"


def verdict(drawn: random.Random) -> Outcome:
    """What a worker says of a piece, with the right checksum."""
    found = verdict_of(_one_of(forged_map(VERDICT, drawn), damaged(VERDICT, b"\x95", drawn), drawn), PIECE, COUNT)
    return "refused" if isinstance(found, Refused) else _verdict_holds(found)


def _verdict_holds(found: PieceVerdict) -> Outcome:
    """It is on the piece that was asked for, with a flag for each example, and none robust that is misclassified."""
    flags = [*found.clean, *found.robust]
    whole = len(found.clean) == len(found.robust) == COUNT and all(isinstance(each, bool) for each in flags)
    possible = all(clean or not robust for clean, robust in zip(found.clean, found.robust, strict=True))
    return "allowed" if found[:3] == PIECE[:3] and whole and possible else f"the verdict {found}"


def bomb(drawn: random.Random) -> Outcome:
    """Claims of sizes that are not there, and structures that are deep or wide, for every decoder."""
    size = drawn.randrange(1, 1 << 16)
    blob = drawn.choice(
        (
            drawn.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")) + b"\xff\xff\xff\xff" + bytes(64),
            b"\x91" * size,
            b"\x81\xa1a" * size,
            b"\xdd" + LENGTH.pack(size) + b"\xc0" * size,
            b"\x9a\x08" + b"\xdd" + LENGTH.pack(size) + b"\x00" * size,
        )
    )
    as_header = LENGTH.pack(len(blob)) + blob + bytes(-len(blob) % 8)
    decode = drawn.choice(
        (
            lambda: decode_ticket(blob),
            lambda: decode_shard(as_header, object_to),
            lambda: orders._order(memoryview(blob)),
            lambda: orders._record(b"missing", memoryview(blob)),
            lambda: _require_parsed(weights_of(b"3-11", {b"controls": blob, b"arrays": b""})),
            lambda: _require_parsed(heartbeat_of(b"5 " + blob, 10)),
            lambda: _require_parsed(piece_of(blob)),
            lambda: _require_parsed(verdict_of(blob, PIECE, COUNT)),
        )
    )
    try:
        decode()
    except CodecError:
        return "refused"
    return f"a bomb was accepted: {blob[:20]!r}"


PURE: tuple[Attempt, ...] = (
    damaged_shard,
    damaged_ticket,
    unsigned_shard,
    forgery_of_shard,
    forgery_of_ticket,
    weights,
    heartbeat,
    control,
    order,
    record,
    piece,
    verdict,
    bomb,
)


class Queue:
    """A real server with one run's queue, whose entries are replaced."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.client: Any = server.client()
        self.transport = Transport(server.client(), "hostile", lease_s=30, timeout_s=5, secret=SECRET)
        self.transport.open(TICKET.fence)
        self.orders = orders.Orders(server.client(), "hostile", "group", timeout_s=5, secret=SECRET)

    def close(self) -> None:
        self.orders.close()
        self.transport.close()
        self.client.close()

    def shard(self, drawn: random.Random) -> Outcome:
        """A payload that is damaged, or forged under the right checksum."""
        key, blob, how = self.transport._key, drawn.choice(SHARDS), drawn.random()
        whole = signed(SECRET, blob)
        sent = (
            whole
            if how < 0.1
            else damaged(whole, blob, drawn)
            if how < 0.5
            else signed(SECRET, forged_shard(blob, drawn))
        )
        self.transport.receive(0.0)  # takes the last one out
        self.client.set(key("payload:3:1:2:0"), sent)
        self.client.zadd(key("ready:3"), {"1:2:0": 0})
        found = self.transport.receive(0.0, objection=object_to)
        if isinstance(found, Missing):
            return f"an honest shard is {found}" if sent == whole else "refused"
        if found is None or (how < 0.5 and sent != whole):
            return f"of a damaged shard {found} was received"
        return wrong_in(found)

    def ticket(self, drawn: random.Random) -> Outcome:
        """An entry of the list of tickets, damaged, or forged under the right checksum."""
        head = b"3 1:2:0 "
        forged = signed(SECRET, forged_map(drawn.choice(TICKETS), drawn))
        broken = damaged(signed(SECRET, drawn.choice(TICKETS)), forged, drawn)
        sent = head + _one_of(forged, broken, drawn)
        self.client.lpush(self.transport._key("tickets"), sent)
        found = self.transport.lease("w0", 0.0)
        outcome = "refused"
        if found is not None:
            key, fence = found.ticket.key, found.ticket.fence  # type: ignore[union-attr]
            outcome = "allowed" if (key, fence) == (TICKET.key, 3) else f"a lease of {found}"
            whole = sent == head + forged or sent[len(head) + 16 :] in TICKETS
            outcome = outcome if whole else f"a damaged ticket was leased: {found}"
        self.client.delete(*(self.transport._key(name) for name in ("tickets", "leases", "owners", "returned", "wake")))
        return outcome

    def status(self, drawn: random.Random) -> Outcome:
        """Everything that is read for status and control."""
        junk = damaged(b"12", b'{"a": 1}', drawn)
        key, transport = self.transport._key, self.transport
        for name in ("state", "pool"):
            self.client.set(key(name), damaged(b'{"step": 1, "phase": "x"}', b"[[1]]", drawn))
        self.client.hset(key("heartbeat"), damaged(b"w0", b"w1", drawn), damaged(b"5 \x81\xa1a\x01", b"\xc1", drawn))
        self.client.hset(key("worker_target"), "count", junk)
        self.client.hset(key("returned"), damaged(b"1:2:0", b"9", drawn), damaged(b"failed\nw0\n", b"x", drawn))
        self.client.xadd(key("weights"), {b"controls": damaged(b"\x93\x01\x01\x01", b"x", drawn), b"arrays": junk})
        transport.state(), transport.pool(), transport.heartbeats(), transport.worker_target(), transport.expired(3)
        believed = transport.newer_weights((0, -1), 0.0)
        self.client.delete(*(key(name) for name in ("state", "pool", "heartbeat", "returned", "weights")))
        return "refused" if believed is None else f"weights that nobody has signed: {believed}"

    def verdict(self, drawn: random.Random) -> Outcome:
        """A verdict of a rolling evaluation, damaged behind its checksum, or forged under the right one."""
        honest, how = signed(SECRET, VERDICT), drawn.random()
        forged = signed(SECRET, forged_map(VERDICT, drawn))
        sent = honest if how < 0.1 else damaged(honest, VERDICT, drawn) if how < 0.5 else forged
        self.client.hset(self.transport._key("verdicts"), "3:11:0", sent)
        found = self.transport.pieces().gather([PIECE], lambda number: COUNT)
        if not found:
            return "an honest verdict was refused" if sent == honest else "refused"
        if how < 0.5 and sent != honest:
            return f"a damaged verdict was believed: {found}"
        return _verdict_holds(found[0])

    def piece(self, drawn: random.Random) -> Outcome:
        """A piece, damaged behind its checksum."""
        honest = signed(SECRET, msgpack.packb(("piece", *PIECE)))
        sent = damaged(honest, VERDICT, drawn)
        self.client.rpush(self.transport._key("pieces"), sent)
        found = self.transport.pieces().take()
        return "refused" if found is None else "same" if sent == honest else f"a damaged piece was taken: {found}"

    def order(self, drawn: random.Random) -> Outcome:
        """An entry between trainers, damaged behind its checksum."""
        stream, kind = self.orders._prefix + self.orders._orders, b"order"
        message = msgpack.packb((1, "Begin", 3))
        entry = self.orders._tag(self.orders._orders, kind, message) + message
        broken = damaged(entry, entry, drawn)
        self.client.xadd(stream, {kind: broken})
        found = self.orders.next(0.0)
        self.orders._followed = 0
        return "same" if broken == entry else "refused" if not found else f"an order that nobody gave: {found}"


def campaign(messages: int, seed: int) -> dict[str, Tally]:
    """So many messages, nine in ten of them without a server; tallies by kind."""
    drawn, tallies = random.Random(seed), dict[str, Tally]()
    with EmbeddedServer(64 << 20) as server:
        queue = Queue(server)
        through: tuple[Attempt, ...] = (
            *(queue.shard, queue.ticket, queue.status, queue.order, queue.verdict, queue.piece),
        )
        kinds = {_name(each): each for each in PURE} | {f"through the queue: {_name(each)}": each for each in through}
        names = [name for name in kinds if name[:7] != "through"], [name for name in kinds if name[:7] == "through"]
        for number in range(messages):
            name = drawn.choice(names[number % 10 == 0])
            _count(tallies.setdefault(name, Tally()), kinds[name], drawn, f"{seed}/{number}")
        queue.close()
    return tallies


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """Kind, and what became of its messages."""
    yield "| message | sent | refused | as it was sent | accepted, within its ticket | most work (ms) | violations |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, each in sorted(tallies.items()):
        numbers = (each.sent, each.refused, each.same, each.allowed)
        counts = " | ".join(f"{number:,}" for number in numbers)
        yield f"| {name} | {counts} | {1000 * each.slowest_s:.1f} | {len(each.violations)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Send hostile messages and count what becomes of them.")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what is refused is meant to be
    campaign(1000, options.seed + 1)  # what is imported and allocated once does not count
    before = _memory()
    tallies = campaign(options.messages, options.seed)
    growth, found = _memory() - before, [each for tally in tallies.values() for each in tally.violations]
    if growth > MOST_GROWTH:
        found.append(f"the process has grown by {growth >> 20} MiB")
    sys.stdout.write("\n".join(table(tallies)) + "\n\n")
    sys.stdout.write(f"{options.messages:,} messages, {len(found)} violations, memory + {growth / 2**20:.1f} MiB\n")
    for each in found[:20]:
        sys.stderr.write(each + "\n")
    sys.exit(1 if found else 0)


def _count(tally: Tally, attempt: Attempt, drawn: random.Random, at: str) -> None:
    began = time.thread_time()
    try:
        outcome = attempt(drawn)
    except SparringError as error:
        outcome = f"{type(error).__name__}: {error}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    seconds = time.thread_time() - began
    tally.sent, tally.slowest_s = tally.sent + 1, max(tally.slowest_s, seconds)
    if outcome in ("refused", "same", "allowed"):
        setattr(tally, outcome, getattr(tally, outcome) + 1)
    else:
        tally.violations.append(f"{at} {attempt.__name__}: {outcome:.300}")
    if seconds > SLOWEST_S:
        tally.violations.append(f"{at} {attempt.__name__}: {seconds:.2f} s")


def _behind_its_checksum(messages: list[bytes], drawn: random.Random) -> Outcome:
    message = signed(SECRET, drawn.choice(messages))
    received = damaged(message, signed(SECRET, drawn.choice(messages)), drawn)
    if verified(SECRET, received) is None:
        return "refused"
    return "same" if received[16:] in messages else "a message that nobody has sent"


def _decoded(blob: bytes) -> Outcome:
    with suppress(CodecError):
        return wrong_in(decode_shard(blob, object_to))
    return "refused"


def _require_parsed(found: object) -> None:
    if isinstance(found, Refused):
        raise CodecError(found.reason)


def _parsed(found: object) -> Outcome:
    return "refused" if isinstance(found, Refused) else "allowed"


def _one_of(first: bytes, second: bytes, drawn: random.Random) -> bytes:
    return first if drawn.random() < 0.5 else second


def _name(attempt: Attempt) -> str:
    return attempt.__name__.replace("_", " ")


def _memory() -> int:
    """The most that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
