"""Rolling evaluation through the queue's Redis: pieces of the held-out examples to the workers, their verdicts back.

    pieces                                               fence version number, signed: pieces that nobody has taken
    verdicts                                             by fence:version:number, signed: what workers have found
    judged                                               the weights that are judged, if they go through the queue

A piece has no lease. One whose worker dies is put out again by the trainer after a while, and done twice where it was
only slow: its verdict is the same. Nothing here touches the tickets of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from sparring.queue.messages import Piece, PieceVerdict
from sparring.queue.parsing import Refused
from sparring.queue.signature import TAG_BYTES, signed, verified

NUMBER = 2**53  # numbers beyond it are refused
ALLOWANCE_BYTES = 512  # of a verdict beside its examples
MOST_CHARACTERS = 128


class Scripts(NamedTuple):
    """What pieces need of a transport. run: calls a script (name, names of keys, arguments). ask: with retries."""

    run: Callable[..., Any]
    ask: Callable[[Callable[[], Any]], Any]
    accepted: Callable[[int, int], None]
    checked: Callable[[Any], Any]


class Pieces:
    """Either side of the rolling evaluation of one run."""

    def __init__(self, client: Any, prefix: str, scripts: Scripts, secret: bytes) -> None:
        self._redis, self._prefix, self._scripts, self._secret = client, prefix, scripts, secret

    def put_out(self, pieces: Sequence[Piece], *, anew: bool) -> None:
        """Offer pieces, all of one fence, in the place of those that nobody has taken. anew: forget all verdicts.

        Raises:
            FencedOut: their fence is not the current one.
            QueueLost: the server was restarted empty.
        """
        fence = pieces[0].fence
        packed = [signed(self._secret, msgpack.packb(("piece", *piece))) for piece in pieces]
        reply = self._scripts.run("put_out", "fence pieces verdicts", fence, int(anew), *packed)
        self._scripts.accepted(reply, fence)

    def take(self) -> Piece | None:
        """A piece that nobody has taken, for a worker; None: there is none."""
        entry = self._scripts.ask(lambda: self._redis.lpop(self._prefix + "pieces"))
        if entry is None:
            return None
        found: Piece | None = self._scripts.checked(piece_of(verified(self._secret, entry)))
        return found

    def untaken(self) -> int:
        """How many pieces nobody has taken."""
        return int(self._scripts.ask(lambda: self._redis.llen(self._prefix + "pieces")))

    def tell(self, verdict: PieceVerdict) -> bool:
        """Send a verdict. False: its fence is no longer in force."""
        packed = signed(self._secret, msgpack.packb(("verdict", *verdict)))
        return bool(self._scripts.run("judged", "", self._prefix, verdict.fence, _field(verdict), packed))

    def gather(self, expected: Sequence[Piece], examples: Callable[[int], int]) -> list[PieceVerdict]:
        """The verdicts on the expected pieces that have come; they are taken out. examples: of a piece, by number.

        What is no such verdict is refused, counted, and taken out too.
        """
        fields = [_field(piece) for piece in expected]
        if not fields:
            return []
        key = self._prefix + "verdicts"
        entries = self._scripts.ask(partial(self._redis.hmget, key, fields))
        came = [(piece, entry) for piece, entry in zip(expected, entries, strict=True) if entry is not None]
        if came:
            self._scripts.ask(partial(self._redis.hdel, key, *(_field(piece) for piece, _ in came)))
        found = [self._scripts.checked(self._verdict(piece, entry, examples)) for piece, entry in came]
        return [verdict for verdict in found if verdict is not None]

    def _verdict(self, piece: Piece, entry: bytes, examples: Callable[[int], int]) -> PieceVerdict | Refused:
        count = examples(piece.number)
        if len(entry) > TAG_BYTES + ALLOWANCE_BYTES + 2 * count:
            return Refused("verdict", f"{len(entry)} bytes for {count} examples")
        return verdict_of(verified(self._secret, entry), piece, count)


def piece_of(message: bytes | memoryview | None) -> Piece | Refused:
    """The piece in a message whose checksum was right; None: it was not."""
    if message is None:
        return Refused("piece", "its checksum is not that of this run's trainer")
    try:
        kind, fence, version, number, fingerprint = msgpack.unpackb(message)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        return Refused("piece", f"{error!s:.80}")
    if kind != "piece" or not all(map(_is_count, (fence, version, number))) or not _is_name(fingerprint):
        return Refused("piece", f"its fields are not those of a piece: {kind!r:.40}")
    return Piece(fence, version, number, fingerprint)


def verdict_of(message: bytes | memoryview | None, piece: Piece, examples: int) -> PieceVerdict | Refused:
    """The verdict on a `piece` of so many examples, in a message whose checksum was right; None: it was not."""
    if message is None:
        return Refused("verdict", "its checksum is not that of this run's workers")
    try:
        kind, fence, version, number, clean, robust, worker = msgpack.unpackb(message)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        return Refused("verdict", f"{error!s:.80}")
    if kind != "verdict" or [fence, version, number] != list(piece[:3]) or not _is_name(worker):
        return Refused("verdict", f"it is not on piece {piece[:3]}")
    if not _are_flags(clean, examples) or not _are_flags(robust, examples):
        return Refused("verdict", f"it has not one flag for each of {examples} examples")
    if any(held and not found for held, found in zip(robust, clean, strict=True)):
        return Refused("verdict", "an example is robust that is misclassified without an attack")
    return PieceVerdict(fence, version, number, tuple(clean), tuple(robust), worker)


def _field(of: Piece | PieceVerdict) -> str:
    return f"{of.fence}:{of.version}:{of.number}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUMBER


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MOST_CHARACTERS and value.isprintable()


def _are_flags(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(each, bool) for each in value)
