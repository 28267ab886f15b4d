"""Messages that were damaged, or forged by somebody who knows their structure. Seeded."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

LENGTH = struct.Struct(">I")
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 127, 255, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, -1.0, 1e-45, 1e9, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x" * 200, "\0", "linf", "l2", "exact", "sign", "uint8", "float32", "int8", "bool", b"", b"\x80" * 48),
    *([], {}, [[[[[]]]]], [0] * 50, {"a": {}}, [1, 1, 1], [2**31, 2**31, 1, 1], [0, 1, 4, 4]),
    *(msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1)),
)


def damaged(message: bytes, other: bytes, drawn: random.Random) -> bytes:
    """The message after one to three accidents; `other`: another message, of which a part may come in."""
    for _ in range(drawn.choice((1, 1, 2, 3))):
        message = drawn.choice(ACCIDENTS)(message, other, drawn)
    return message


def forged_map(message: bytes, drawn: random.Random) -> bytes:
    """msgpack with a value, or a few, replaced, taken away or doubled."""
    tree = msgpack.unpackb(message, strict_map_key=False)
    for _ in range(drawn.choice((1, 1, 2, 4))):
        tree = _forged(tree, drawn)
    return bytes(msgpack.packb(tree))


def forged_shard(message: bytes, drawn: random.Random) -> bytes:
    """A shard with a forged header in front of the same tensors, or with other bytes in the tensors."""
    (length,) = LENGTH.unpack_from(message)
    end = LENGTH.size + length
    header, body = message[LENGTH.size : end], bytearray(message[end + -end % 8 :])
    if drawn.random() < 0.8:
        header = forged_map(header, drawn)
    if drawn.random() < 0.5:
        for _ in range(drawn.randrange(1, 9)):
            body[drawn.randrange(len(body))] = drawn.choice((0, 127, 128, 255, drawn.randrange(256)))
    packed = LENGTH.pack(len(header)) + header
    return packed + bytes(-len(packed) % 8) + bytes(body)


def _flipped(message: bytes, _: bytes, drawn: random.Random) -> bytes:
    if not message:
        return b"\0"
    changed = bytearray(message)
    changed[drawn.randrange(len(changed))] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def _overwritten(message: bytes, _: bytes, drawn: random.Random) -> bytes:
    at, some = drawn.randrange(len(message) + 1), drawn.randbytes(drawn.randrange(1, 9))
    return message[:at] + some + message[at + len(some) :]


def _cut(message: bytes, _: bytes, drawn: random.Random) -> bytes:
    return message[: drawn.randrange(len(message) + 1)]


def _lengthened(message: bytes, _: bytes, drawn: random.Random) -> bytes:
    return message + drawn.randbytes(drawn.randrange(1, 64))


def _without_a_part(message: bytes, _: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(message) + 1)
    return message[:at] + message[at + drawn.randrange(1, 33) :]


def _spliced(message: bytes, other: bytes, drawn: random.Random) -> bytes:
    return message[: drawn.randrange(len(message) + 1)] + other[drawn.randrange(len(other) + 1) :]


ACCIDENTS: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    _flipped,
    _overwritten,
    _cut,
    _lengthened,
    _without_a_part,
    _spliced,
)


def _forged(tree: Any, drawn: random.Random) -> Any:
    """The tree with one change, at a place that is drawn from the root on."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not keys or drawn.random() < 0.1:
        return drawn.choice(HOSTILE)
    key, copied = drawn.choice(keys), tree.copy()
    how = drawn.random()
    if how < 0.1:
        del copied[key]
    elif how < 0.2 and isinstance(copied, list):
        copied.insert(key, copied[key])
    elif how < 0.3 and isinstance(tree[key], int) and abs(tree[key]) < 2**53:
        copied[key] = int(tree[key]) + drawn.choice((-1, 1))
    else:
        copied[key] = _forged(tree[key], drawn)
    return copied
