"""What comes from the queue becomes a value or a refusal, and nothing raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.queue.messages import Controls, Key, Returned, Weights, WorkerTarget
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

CONTROLS = msgpack.packb((0.3, 0.5, 10))


def test_what_is_right_is_read() -> None:
    assert key_of(b"1:20:3") == Key(1, 20, 3)
    assert (count_of(b"12", "x"), count_of(None, "x")) == (12, 0)
    assert returned_of(b"0:1:2", b"failed\nw1\nValueError: no\nmore") == Returned(
        Key(0, 1, 2), "failed", "ValueError: no\nmore", "w1"
    )
    assert returned_of(b"0:1:2", b"lease_expired\n") == Returned(Key(0, 1, 2), "lease_expired")
    assert weights_of(b"3-7", {b"controls": CONTROLS, b"arrays": b"a"}) == Weights(3, 7, Controls(0.3, 0.5, 10), b"a")
    assert heartbeat_of(b"100 " + msgpack.packb({"shards": 3}), 104) == {"shards": 3, "age_s": 4}
    assert target_of({b"count": b"4", b"leaving:w2": b"1"}) == WorkerTarget(4, frozenset({"w2"}))
    assert target_of({}) is None and json_of(b'{"step": 1}', "state") == {"step": 1}


@pytest.mark.parametrize(
    "read",
    [
        lambda: key_of(b"1:2"),
        lambda: key_of(b"1:2:-3"),
        lambda: key_of(b"1:2:3:4"),
        lambda: key_of(b"9" * 30 + b":1:1"),
        lambda: count_of(b"-1", "x"),
        lambda: count_of(b"9" * 30, "x"),
        lambda: returned_of(b"garbage", b"failed\nw\n"),
        lambda: returned_of(b"0:1:2", b"because\nw\n"),
        lambda: weights_of(b"3", {b"controls": CONTROLS, b"arrays": b""}),
        lambda: weights_of(b"3-7", {b"controls": CONTROLS}),
        lambda: weights_of(b"3-7", {b"controls": msgpack.packb((float("nan"), 0, 0)), b"arrays": b""}),
        lambda: weights_of(b"3-7", {b"controls": msgpack.packb((-1, 0, 0)), b"arrays": b""}),
        lambda: weights_of(b"3-7", {b"controls": b"\xc1", b"arrays": b""}),
        lambda: heartbeat_of(b"100 " + msgpack.packb([1]), 104),
        lambda: heartbeat_of(b"100 " + msgpack.packb({"wait_seconds": {b"x": 1}}), 104),
        lambda: weights_of(b"3-7", {b"controls": msgpack.packb((0.1, 0.0, float("inf"))), b"arrays": b""}),
        lambda: heartbeat_of(b"x " + msgpack.packb({}), 104),
        lambda: heartbeat_of(b"100 " + msgpack.packb({1: 2}), 104),
        lambda: target_of({b"count": b"many"}),
        lambda: target_of({b"count": b"1000000000"}),
        lambda: json_of(b"[1]", "state"),
        lambda: json_of(b"{", "state"),
        lambda: json_of(b"[" * 100_000, "state"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason(read: Callable[[], Any]) -> None:
    found = read()
    assert isinstance(found, Refused) and found.what and found.reason


@given(st.binary(max_size=60), st.binary(max_size=60), st.dictionaries(st.binary(max_size=9), st.binary(max_size=30)))
def test_nothing_raises(one: bytes, two: bytes, fields: dict[bytes, bytes]) -> None:
    for read in (
        lambda: key_of(one),
        lambda: count_of(one, "x"),
        lambda: returned_of(one, two),
        lambda: weights_of(one, fields | {b"controls": two, b"arrays": b""}),
        lambda: heartbeat_of(one, 1),
        lambda: heartbeat_of(b"1 " + two, 1),
        lambda: target_of(fields | {b"count": one}),
        lambda: json_of(one, "state"),
    ):
        read()


def test_nothing_that_is_shown_can_move_a_terminals_cursor() -> None:
    evil = b"\x1b[31mEVIL\x1b]0;pwn\x07"
    assert printable(evil) == "?[31mEVIL?]0;pwn?" and printable("wörker-1".encode()) == "wörker-1"
    beat = heartbeat_of(b"5 " + msgpack.packb({"node": evil.decode()}), 5)
    assert not isinstance(beat, Refused) and beat["node"] == printable(evil)
    back = returned_of(b"0:1:0", b"failed\nw" + evil + b"\nValueError: no\n" + evil)
    assert isinstance(back, Returned) and "\x1b" not in back.worker + back.detail and "no\n?[31m" in back.detail
