"""Pieces and verdicts on real servers: what comes is a value or a counted refusal, and training is untouched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.queue.messages import Key, Piece, PieceVerdict, Ticket
from sparring.queue.parsing import Refused
from sparring.queue.pieces import piece_of, verdict_of
from sparring.queue.server import EmbeddedServer
from sparring.queue.signature import signed
from sparring.queue.transport import FencedOut, QueueLost, Transport, prefix_of
from tests.support.queues import opened

SECRET = b"of this run"
PIECES = [Piece(1, 40, number, "f") for number in range(3)]
FOUND = PieceVerdict(1, 40, 1, (True, True, False), (True, False, False), "w")


@pytest.fixture
def sides(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[tuple[Transport, Transport]]:
    name = f"pieces-{abs(hash(request.node.name))}"
    made = [Transport(server.client(), name, lease_s=5.0, timeout_s=5.0, secret=SECRET) for _ in ("trainer", "worker")]
    opened(made[0])
    yield made[0], made[1]
    made[0].forget()


def three(number: int) -> int:
    return 3


def test_each_piece_is_taken_once_and_its_verdict_gathered_once(sides: tuple[Transport, Transport]) -> None:
    trainer, worker = (side.pieces() for side in sides)
    trainer.put_out(PIECES, anew=True)
    assert [worker.take() for _ in range(4)] == [*PIECES, None] and trainer.untaken() == 0
    assert worker.tell(FOUND)
    assert trainer.gather(PIECES, three) == [FOUND] and trainer.gather(PIECES, three) == []
    assert trainer.gather([], three) == []


def test_pieces_that_are_offered_again_take_the_place_of_those_before_and_no_verdict_is_lost(
    sides: tuple[Transport, Transport],
) -> None:
    trainer, worker = (side.pieces() for side in sides)
    trainer.put_out(PIECES, anew=True)
    worker.tell(FOUND)
    trainer.put_out([PIECES[0], PIECES[2]], anew=False)
    assert [worker.take(), worker.take(), worker.take()] == [PIECES[0], PIECES[2], None]
    assert trainer.gather(PIECES, three) == [FOUND]
    worker.tell(FOUND)
    newer = [piece._replace(version=50) for piece in PIECES]
    trainer.put_out(newer, anew=True)
    worker.tell(FOUND)  # of the version before
    assert trainer.gather(newer, three) == [] and sides[0].refused.total() == 0


def test_a_later_fence_takes_no_verdict_of_an_earlier_one_and_keeps_no_piece(
    sides: tuple[Transport, Transport],
) -> None:
    trainer, worker = (side.pieces() for side in sides)
    trainer.put_out(PIECES, anew=True)
    worker.tell(FOUND)
    opened(sides[0])
    assert worker.take() is None and not worker.tell(FOUND) and trainer.gather(PIECES, three) == []
    with pytest.raises(FencedOut):
        trainer.put_out(PIECES, anew=True)


def test_a_server_that_was_restarted_empty_says_so(sides: tuple[Transport, Transport], server: EmbeddedServer) -> None:
    sides[0].forget()
    with pytest.raises(QueueLost):
        sides[0].pieces().put_out(PIECES, anew=True)
    opened(sides[0])


def test_the_tickets_of_training_are_not_touched(sides: tuple[Transport, Transport]) -> None:
    trainer, worker = sides
    trainer.issue([Ticket(Key(0, number, 0), 1, 0, (1, 2), "f") for number in range(2)])
    before = trainer.sizes()
    trainer.pieces().put_out(PIECES, anew=True)
    worker.pieces().take()
    worker.pieces().tell(FOUND)
    trainer.pieces().gather(PIECES, three)
    assert trainer.sizes() == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no msgpack \xc1", "unpack"),
        (msgpack.packb(("piece", 1, 40, 1, [True] * 3, [True] * 3, "w")), "not on piece"),
        (msgpack.packb(("verdict", 1, 41, 1, [True] * 3, [True] * 3, "w")), "not on piece"),
        (msgpack.packb(("verdict", 1, 40, 1, [True] * 2, [True] * 2, "w")), "one flag for each"),
        (msgpack.packb(("verdict", 1, 40, 1, [1, 1, 1], [True] * 3, "w")), "one flag for each"),
        (msgpack.packb(("verdict", 1, 40, 1, [False] * 3, [True] * 3, "w")), "misclassified without an attack"),
        (msgpack.packb(("verdict", 1, 40, 1, [True] * 3, [True] * 3, "w" * 129)), "not on piece"),
        (msgpack.packb(("verdict", 1, 40, 1, [True] * 3, [True] * 3, "\x1b[2J")), "not on piece"),
        (b"x" * 5000, "bytes for"),
    ],
)
def test_what_is_no_verdict_is_refused_counted_and_taken_out(
    sides: tuple[Transport, Transport], server: EmbeddedServer, content: bytes, why: str
) -> None:
    transport = sides[0]
    key, client = transport._key("verdicts"), server.client()
    client.hset(key, "1:40:1", signed(SECRET, content))
    client.hset(key, "1:40:0", signed(b"of another", msgpack.packb(("verdict", 1, 40, 0, [True] * 3, [True] * 3, "w"))))
    assert transport.pieces().gather(PIECES, three) == []
    assert transport.refused == {"verdict": 2} and client.hlen(key) == 0


@pytest.mark.parametrize(
    "content", [b"\xc1", msgpack.packb(("verdict", 1, 2, 3, "f")), msgpack.packb(("piece", -1, 2, 3, "f"))]
)
def test_what_is_no_piece_is_refused_and_counted(
    sides: tuple[Transport, Transport], server: EmbeddedServer, content: bytes
) -> None:
    worker = sides[1]
    server.client().rpush(worker._key("pieces"), signed(SECRET, content), b"short")
    assert worker.pieces().take() is None and worker.pieces().take() is None
    assert worker.refused == {"piece": 2}


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), st.lists, max_leaves=9))
def test_any_message_is_a_value_or_a_refusal(content: Any) -> None:
    message = msgpack.packb(content)
    assert isinstance(piece_of(message), Piece | Refused)
    assert isinstance(verdict_of(message, PIECES[0], 2), PieceVerdict | Refused)
    assert isinstance(verdict_of(None, PIECES[0], 2), Refused) and isinstance(piece_of(None), Refused)


def test_forgetting_a_run_leaves_nothing(sides: tuple[Transport, Transport], server: EmbeddedServer) -> None:
    trainer, worker = sides
    trainer.pieces().put_out(PIECES, anew=True)
    worker.pieces().tell(FOUND)
    trainer.forget()
    prefix = trainer._key("")
    assert prefix.startswith(prefix_of("pieces")[:9])
    assert not [key for key in server.client().scan_iter() if key.startswith(prefix.encode())]
