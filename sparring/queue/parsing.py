"""What comes from the queue becomes a value or a refusal. Pure; nothing here raises on what it is given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from sparring.config import MAX_WORKERS
from sparring.queue.messages import Controls, Key, Returned, Weights, WorkerTarget

MEMBER = re.compile(rb"(\d{1,15}):(\d{1,15}):(\d{1,15})")
REASONS = ("lease_expired", "handed_back", "failed", "failed_together", "queue_full", "ticket_corrupt")
MAX_FIELDS = 1000  # of a heartbeat


class Refused(NamedTuple):
    """An entry that is not what it should be: `what` it was to be, and why it is not."""

    what: str
    reason: str


def printable(raw: bytes, keep: str = "") -> str:
    """The text without characters that move a terminal's cursor or change its colours, but those to `keep`."""
    return "".join(sign if sign.isprintable() or sign in keep else "?" for sign in raw.decode(errors="replace"))


def key_of(member: bytes) -> Key | Refused:
    """The attempt that a member names: epoch:number:attempt."""
    found = MEMBER.fullmatch(member)
    if found is None:
        return Refused("member", f"{member[:40]!r} is no epoch:number:attempt")
    return Key(*map(int, found.groups()))


def count_of(value: bytes | None, what: str) -> int | Refused:
    """A number that is not negative; 0 where there is none."""
    if value is None:
        return 0
    return int(value) if value.isdigit() and len(value) <= 15 else Refused(what, f"{value[:40]!r} is no count")


def returned_of(member: bytes, entry: bytes) -> Returned | Refused:
    """An attempt that ended without a shard: its reason, worker and error are lines of `entry`."""
    key, lines = key_of(member), [printable(line, "\n") for line in entry.split(b"\n", 2)]
    if isinstance(key, Refused):
        return key
    reason, worker, detail = [*lines, "", ""][:3]
    if reason not in REASONS:
        return Refused("returned", f"reason {reason[:40]!r}")
    return Returned(key, reason, detail, worker)


def weights_of(name: bytes, fields: Mapping[bytes, bytes]) -> Weights | Refused:
    """A snapshot of the stream `weights`; its arrays are not looked at."""
    try:
        fence, version = map(int, name.split(b"-"))
        epsilon, robust_share, pgd_steps = msgpack.unpackb(fields[b"controls"])
        controls = Controls(float(epsilon), float(robust_share), int(pgd_steps))
        arrays = fields[b"arrays"]
    except (KeyError, ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        return Refused("weights", f"{name[:40]!r}: {error!s:.80}")
    valid = isfinite(controls.epsilon) and controls.epsilon >= 0 and 0 <= controls.robust_share <= 1
    return Weights(fence, version, controls, arrays) if valid else Refused("weights", f"controls {controls}")


def heartbeat_of(entry: bytes, now: int) -> dict[str, Any] | Refused:
    """The fields of a heartbeat, by name, with its age `age_s` in seconds at `now`."""
    stamp, _, packed = entry.partition(b" ")
    sent = count_of(stamp, "heartbeat")
    if isinstance(sent, Refused):
        return sent
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        return Refused("heartbeat", f"{error!s:.80}")
    if not isinstance(fields, dict) or len(fields) > MAX_FIELDS or not all(isinstance(name, str) for name in fields):
        return Refused("heartbeat", "it is no map of names")
    try:
        json.dumps(fields)  # it goes into the run's folder as such
    except (TypeError, ValueError, RecursionError) as error:
        return Refused("heartbeat", f"{error!s:.80}")
    shown = {
        name: printable(value.encode(errors="replace")) for name, value in fields.items() if isinstance(value, str)
    }
    return {**fields, **shown, "age_s": max(0, now - sent)}


def target_of(fields: Mapping[bytes, bytes]) -> WorkerTarget | Refused | None:
    """The worker target; None: there is none."""
    if b"count" not in fields:
        return None
    count = count_of(fields[b"count"], "worker_target")
    leaving = (printable(name).removeprefix("leaving:") for name in fields if name != b"count")
    if isinstance(count, Refused) or count > MAX_WORKERS:
        return Refused("worker_target", f"{fields[b'count'][:40]!r} is no number of workers")
    return WorkerTarget(count, frozenset(leaving))


def json_of(text: bytes, what: str) -> dict[str, Any] | Refused:
    """A JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Refused(what, f"{error!s:.80}")
    return found if isinstance(found, dict) else Refused(what, "it is no JSON object")
