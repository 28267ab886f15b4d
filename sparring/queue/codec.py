"""The wire format: encode and decode tickets and shards. Pure; nothing that is received is executed.

A shard is one buffer: the header's length (4 bytes, big-endian), a msgpack header padded to 8 bytes, then the raw
little-endian tensors that the header names: labels, then scales (for int8 under L2, and for sign) and delta, or views.
Flags are packed into bits. The decoder allocates no more memory than the payload needs: the sizes of all tensors must
add up to the received length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgpack  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparring.attacks import AttackRecord
from sparring.attacks.norms import NORMS, per_example, project_ball
from sparring.errors import SparringError
from sparring.queue.messages import Finish, Key, Shard, Ticket

Wire = Literal["int8", "exact", "sign", "uint8"]  # uint8: AugMix's views, with any queue.wire
Array = npt.NDArray[Any]

PROTOCOL = 9
MAX_HEADER_BYTES = 1 << 20
RANKS = {"labels": 1, "scales": 1, "delta": 4, "views": 5}  # δ is [n, C, H, W], views are [2, n, C, H, W]
VIEWS = 2
MAX_WORKER_CHARACTERS = MAX_NAME_CHARACTERS = 128
MAX_CLASSES = 64  # of an allocator
MAX_STEPS = 1 << 16  # of an attack, versions of which a shard names
HEADER_ALLOWANCE_BYTES = 1024
MAX_EPSILON = 1000.0  # that of attack.epsilon
SLACK = 1e-6  # largest rounding error outside the ball (docs/architecture.md, invariant 6)

_LENGTH = struct.Struct(">I")
_DTYPES: dict[str, np.dtype[Any]] = {
    "int8": np.dtype("<i1"),
    "uint8": np.dtype("<u1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "bool": np.dtype("?"),  # packed: eight values per byte, the first in the highest bit
}
_ALLOWED = {
    "labels": ("int64", "int32"),
    "scales": ("float32",),
    "delta": ("int8", "float32", "bool"),
    "views": ("uint8",),
}
_OF_WIRE = {"int8": "int8", "exact": "float32", "sign": "bool", "uint8": "uint8"}


class CodecError(SparringError):
    """A message that does not follow the protocol. It is refused as a whole."""


class _Slot(NamedTuple):
    """Name, type and shape of one raw tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        count = math.prod(self.shape)
        return -(-count // 8) if self.dtype == "bool" else count * _DTYPES[self.dtype].itemsize


def encode_ticket(ticket: Ticket) -> bytes:
    """A ticket as msgpack."""
    described = (ticket.fence, ticket.version, ticket.fingerprint, ticket.indices, ticket.starts, ticket.finish)
    fields = (PROTOCOL, *ticket.key, *described)
    return bytes(msgpack.packb(fields))


def decode_ticket(blob: bytes | memoryview) -> Ticket:
    """The ticket in `blob`.

    Raises:
        CodecError: where it is not one, or another protocol's.
    """
    fields = _unpack(blob)
    if not isinstance(fields, list) or not fields:
        raise CodecError("a ticket from the queue is malformed: not a list of fields")
    _check_protocol(fields[0])
    if len(fields) != 10 or not isinstance(fields[6], str) or not isinstance(fields[7], list):
        raise CodecError("a ticket from the queue is malformed: its fields are not those of a ticket")
    epoch, number, attempt, fence, version = (_count(value, "a ticket's number") for value in fields[1:6])
    indices = tuple(_count(index, "an example's index") for index in fields[7])
    starts, finish = _starts(fields[8], len(indices)), _finish(fields[9])
    return Ticket(Key(epoch, number, attempt), fence, version, indices, fields[6], starts, finish)


def _finish(found: object) -> Finish | None:
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 2 or not (found[1] == 0 or _is_radius(found[1])):
        raise CodecError("a ticket's finish is not a version and an ε")
    return Finish(_count(found[0], "the version of a ticket's finish"), float(found[1]))


def _starts(rows: object, count: int) -> tuple[bytes | None, ...]:
    """Starting points: none, or one row per example: None, or int8 values from -127 on, all rows of one length."""
    if not isinstance(rows, list) or len(rows) not in (0, count):
        raise CodecError("a ticket's starts are not one an example")
    present = [row for row in rows if row is not None]
    if not all(isinstance(row, bytes) and row and len(row) == len(present[0]) for row in present):
        raise CodecError("a ticket's starts are not rows of bytes of one length")
    if any(b"\x80" in row for row in present):
        raise CodecError("a ticket's start holds -128, which is outside its ball")
    return tuple(rows)


def encode_shard(shard: Shard, wire: Wire) -> bytes:
    """A shard as one buffer.

    int8 rounds to ε/127 under L∞ (error ≤ ε/254) and to max|δ|/127 of each example under L2; under any other norm it
    rounds towards zero, so that a perturbation cannot leave the ball of an attack of the user's own. exact is
    bit-for-bit; sign keeps max|δ| of each example and one bit a value, so that values between come out at the ball's
    corner. Views travel as they are, whatever `wire` says.

    Raises:
        CodecError: δ is not finite or outside its ball, or a tensor has a shape or dtype that does not travel.
    """
    wire, norm = wire if shard.views is None else "uint8", shard.attack.norm
    arrays = {"labels": shard.labels.detach().cpu().numpy(), **_product(shard, wire)}
    slots = [_Slot(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    _check_slots(slots, wire, norm)
    raw = [_bytes(array) for array in arrays.values()]
    return b"".join([_header(shard, wire, slots), *raw])


class Claims(NamedTuple):
    """What a shard says of itself: key, fence, versions, attack, number of examples, their images' shape [C, H, W]."""

    key: Key
    fence: int
    version: int
    start_version: int
    attack: AttackRecord
    examples: int
    shape: tuple[int, ...]


Objection = Callable[[Claims], str]  # why a shard is refused; empty: it is not


def decode_shard(payload: bytes | memoryview, objection: Objection = lambda claims: "") -> Shard:
    """The shard in `payload`: δ float32, dequantised and projected again into the ball, or views; labels int64.

    The image box is applied where δ meets the image that the trainer rebuilds. Nothing is allocated before the header
    is checked and `objection` has been asked.

    Raises:
        CodecError: the payload is not one that `encode_shard` of this protocol could have made, or there is an
            objection.
    """
    view = memoryview(payload).cast("B")
    header, start = _read_header(view)
    slots = _slots(header["tensors"])
    wire, attack = header["wire"], _attack(header["attack"])
    if wire not in tuple(_OF_WIRE):  # it may be of any type
        raise CodecError(f"a shard from the queue has the unknown wire format {wire!r:.20}")
    _check_slots(slots, wire, attack.norm)
    fields = _fields(header)
    if reason := objection(_claims(fields, attack, slots)):
        raise CodecError(reason)
    arrays = _arrays(view, start, slots)
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    if wire == "uint8":
        if attack.radius != 0:
            raise CodecError(f"a shard of views has the radius {attack.radius}, not 0")
        views = torch.from_numpy(arrays["views"].copy())
        return Shard(**fields, attack=attack, delta=torch.empty(0), labels=labels, views=views)
    if not _is_radius(attack.radius):
        raise CodecError(f"a shard's radius is not a number between 0 and {MAX_EPSILON:g}")
    delta = _dequantise(arrays, attack.radius, wire, attack.norm)
    return Shard(**fields, attack=attack, delta=delta, labels=labels)


def received(shard: Shard, wire: Wire) -> Shard:
    """The shard as the trainer has it after its way through the queue."""
    return decode_shard(encode_shard(shard, wire))


def payload_bytes(n: int, shape: Sequence[int], wire: Wire, norm: str) -> int:
    """Largest size in bytes of a shard of `n` examples of `shape` [C, H, W], including its header."""
    scales = 4 * n if _has_scales(wire, norm) else 0
    per_value = {"int8": 1, "exact": 4, "sign": 1 / 8, "uint8": VIEWS}[wire]
    return HEADER_ALLOWANCE_BYTES + 8 * n + scales + math.ceil(n * math.prod(shape) * per_value)


def _product(shard: Shard, wire: Wire) -> dict[str, Array]:
    """The tensors of a shard in encoded form."""
    if shard.views is not None:
        if shard.radius != 0:
            raise CodecError(f"a shard of views has the radius {shard.radius}, not 0")
        return {"views": shard.views.detach().cpu().numpy()}
    delta = shard.delta.detach().cpu().float()
    _check_perturbation(delta, shard.radius)
    return _quantise(delta, shard.radius, wire, shard.attack.norm)


def ticket_bytes(n: int, shape: Sequence[int]) -> int:
    """Largest size in bytes of a ticket for `n` examples of `shape` [C, H, W] with their starting points."""
    return HEADER_ALLOWANCE_BYTES + n * (9 + 5 + math.prod(shape))


def _quantise(delta: Tensor, radius: float, wire: Wire, norm: str) -> dict[str, Array]:
    if wire == "exact":
        return {"delta": delta.numpy()}
    if wire == "sign":
        return {"scales": delta.flatten(1).abs().amax(dim=1).numpy(), "delta": (delta > 0).numpy()}
    if norm == "linf":
        return {"delta": (delta * (127 / radius)).round_().to(torch.int8).numpy()}
    scales = delta.flatten(1).abs().amax(dim=1).clamp_min(1e-30)
    steps = delta * per_example(127 / scales)
    steps = steps.round_() if norm in NORMS else steps.trunc_()
    return {"scales": scales.numpy(), "delta": steps.to(torch.int8).numpy()}


def _dequantise(arrays: Mapping[str, Array], radius: float, wire: Wire, norm: str) -> Tensor:
    raw = arrays["delta"]
    if wire == "exact":
        return _exact(torch.from_numpy(raw.copy()), radius, norm)
    if wire == "sign":
        scales = _scales(arrays, zero=True).copy().reshape(-1, 1, 1, 1)
        signs = torch.from_numpy(raw.view(np.int8)).float().mul_(2).sub_(1)
        return signs.mul_(torch.from_numpy(scales)).clamp_(-radius, radius)
    step: Array | np.float32 = np.float32(radius / 127)
    if norm != "linf":
        step = (_scales(arrays, zero=False) / np.float32(127)).reshape(-1, 1, 1, 1)
    delta = torch.from_numpy(np.multiply(raw, step, dtype=np.float32))
    return project_ball(delta, norm, radius) if norm == "l2" else delta.clamp_(-radius, radius)


def _scales(arrays: Mapping[str, Array], *, zero: bool) -> Array:
    """max|δ| of each example. `zero`: it may be 0, for examples that were not attacked."""
    scales = arrays["scales"]
    positive = scales >= 0 if zero else scales > 0
    if not (positive & (scales <= 2 * MAX_EPSILON)).all():
        raise CodecError(f"a shard's scales are not numbers between 0 and {2 * MAX_EPSILON:g}")
    return scales


def _has_scales(wire: Wire, norm: str) -> bool:
    return wire == "sign" or (wire == "int8" and norm != "linf")


def _bytes(array: Array) -> memoryview:
    packed = np.packbits(array) if array.dtype == np.bool_ else np.ascontiguousarray(array)
    return packed.data.cast("B")


def _exact(delta: Tensor, radius: float, norm: str) -> Tensor:
    """δ, projected if it is outside the ball by more than rounding."""
    if not _finite(delta):
        raise CodecError("a shard's perturbation is not finite")
    if norm != "l2":
        return delta.clamp_(-radius, radius)
    outside = delta.flatten(1).norm(dim=1) > radius * (1 + SLACK)
    return torch.where(per_example(outside), project_ball(delta, norm, radius), delta) if outside.any() else delta


def _check_perturbation(delta: Tensor, radius: float) -> None:
    """Under every norm the largest entry is no larger than the radius."""
    if not _is_radius(radius):
        raise CodecError(f"a shard's radius is {radius}; it must be above 0 and at most {MAX_EPSILON:g}")
    low, high = torch.aminmax(delta)
    largest = max(-low.item(), high.item())
    if not (math.isfinite(low.item()) and largest <= radius * 1.001 + SLACK):
        raise CodecError(f"a perturbation has an entry of {largest:.6g}, outside its ball of radius {radius:.6g}")


def _finite(tensor: Tensor) -> bool:
    return all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor))


def _header(shard: Shard, wire: Wire, slots: list[_Slot]) -> bytes:
    """Length, header and padding; the raw tensors begin at a multiple of 8 bytes."""
    packed = msgpack.packb(
        {
            "protocol": PROTOCOL,
            "key": shard.key,
            "fence": shard.fence,
            "version": shard.version,
            "start_version": shard.start_version,
            "attack": shard.attack,
            "wire": wire,
            "worker": shard.worker[:MAX_WORKER_CHARACTERS],
            **{name: float(getattr(shard, name)) for name in _SECONDS},
            **{name: getattr(shard, name) for name in _GRADIENTS},
            "classes": dict(shard.classes),
            "attacked_by": shard.attacked_by,
            "tensors": slots,
        }
    )
    padding = -(_LENGTH.size + len(packed)) % 8
    return _LENGTH.pack(len(packed)) + bytes(packed) + bytes(padding)


def _read_header(view: memoryview) -> tuple[dict[str, Any], int]:
    """The header, and the offset of the raw tensors."""
    if len(view) < _LENGTH.size:
        raise CodecError(f"a shard from the queue is cut off after {len(view)} bytes")
    (length,) = _LENGTH.unpack_from(view)
    end = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or end > len(view):
        raise CodecError(f"a shard's header claims {length} bytes of {len(view)}, at most {MAX_HEADER_BYTES}")
    header = _unpack(view[_LENGTH.size : end])
    if not isinstance(header, dict):
        raise CodecError("a shard's header is not a map")
    _check_protocol(header.get("protocol"))
    missing = _NAMES - header.keys()
    if missing:
        raise CodecError(f"a shard's header lacks {', '.join(sorted(missing))}")
    return header, end + -end % 8


_GRADIENTS = ("gradients", "zero_gradients", "non_finite_gradients")
_SECONDS = ("attack_seconds", "cost_seconds", "full_seconds")
_NAMES = {
    *("key", "fence", "version", "start_version", "attack", "wire"),
    *("worker", *_SECONDS, *_GRADIENTS, "classes", "attacked_by", "tensors"),
}


def _fields(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header's plain fields, with their types checked."""
    key, worker, seconds = header["key"], header["worker"], {name: header[name] for name in _SECONDS}
    if not isinstance(key, list) or len(key) != 3:
        raise CodecError("a shard's key is not (epoch, number, attempt)")
    if not isinstance(worker, str) or len(worker) > MAX_WORKER_CHARACTERS:
        raise CodecError("a shard's worker is not a name")
    for name, value in seconds.items():
        if not isinstance(value, float) or not math.isfinite(value):
            raise CodecError(f"a shard's {name} is not a number")
    counts = {name: _count(header[name], name) for name in ("fence", "version", "start_version", *_GRADIENTS)}
    epoch, number, attempt = (_count(part, "a key's part") for part in key)
    return {
        "key": Key(epoch, number, attempt),
        "worker": worker,
        **seconds,
        "classes": _classes(header["classes"]),
        "attacked_by": _attacked_by(header["attacked_by"]),
        **counts,
    }


def _claims(fields: Mapping[str, Any], attack: AttackRecord, slots: list[_Slot]) -> Claims:
    return Claims(
        key=fields["key"],
        fence=fields["fence"],
        version=fields["version"],
        start_version=fields["start_version"],
        attack=attack,
        examples=slots[0].shape[0],
        shape=slots[-1].shape[-3:],
    )


def _attack(fields: object) -> AttackRecord:
    """The attack that a shard names, checked: two short strings, two radii and a number of steps."""
    if not isinstance(fields, list) or len(fields) != 5:
        raise CodecError("a shard's attack is not (name, norm, epsilon, radius, steps)")
    name, norm, epsilon, radius, steps = fields
    if not all(isinstance(word, str) and len(word) <= MAX_NAME_CHARACTERS for word in (name, norm)):
        raise CodecError("a shard's attack and norm are not names")
    for value in (epsilon, radius):
        if not isinstance(value, float) or not 0 <= value <= MAX_EPSILON:
            raise CodecError(f"a shard's epsilon and radius are not numbers from 0 to {MAX_EPSILON:g}")
    if _count(steps, "the steps of an attack") == 0:
        raise CodecError("a shard's attack has no steps")
    return AttackRecord(name, norm, epsilon, radius, steps)


def _attacked_by(found: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(found, list) or len(found) > MAX_STEPS:
        raise CodecError("a shard's versions of its steps are not a list")
    for run in found:
        if not isinstance(run, list) or len(run) != 2:
            raise CodecError("a shard's versions of its steps are not pairs (version, steps)")
    return tuple((_count(version, "a step's version"), _count(steps, "a number of steps")) for version, steps in found)


def _classes(found: object) -> dict[str, int]:
    if not isinstance(found, dict) or len(found) > MAX_CLASSES:
        raise CodecError("a shard's classes are not counts by name")
    for name in found:
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
            raise CodecError("a shard's classes are not counts by name")
    return {name: _count(count, "a class's count") for name, count in found.items()}


def _slots(entries: object) -> list[_Slot]:
    if not isinstance(entries, list) or not 2 <= len(entries) <= 3:
        raise CodecError("a shard's header does not list its tensors")
    return [_slot(entry) for entry in entries]


def _slot(entry: object) -> _Slot:
    if not isinstance(entry, list) or len(entry) != 3:
        raise CodecError("a tensor's entry is not (name, dtype, shape)")
    name, dtype, shape = entry
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise CodecError("a tensor's entry is not (name, dtype, shape)")
    return _Slot(name, dtype, tuple(_count(dim, "a dimension") for dim in shape[: max(RANKS.values()) + 1]))


def _check_slots(slots: list[_Slot], wire: Wire, norm: str) -> None:
    """Check that the tensors are those of this wire format and norm, with allowed dtypes and one row per example."""
    if wire == "sign" and norm != "linf":
        raise CodecError("a shard's signs name a corner of a cube, which is outside every ball but that of L∞")
    names = ["labels", "views"] if wire == "uint8" else ["labels", "delta"]
    if _has_scales(wire, norm):
        names.insert(1, "scales")
    if [slot.name for slot in slots] != names:
        raise CodecError(f"a shard's tensors are not {', '.join(names)}")
    for slot in slots:
        if slot.dtype not in _ALLOWED[slot.name]:
            raise CodecError(f"a shard's {slot.name} has dtype {slot.dtype:.20}, not {_ALLOWED[slot.name]}")
        rows = (VIEWS, *slots[0].shape[:1]) if slot.name == "views" else slots[0].shape[:1]
        if len(slot.shape) != RANKS[slot.name] or min(slot.shape) < 1 or slot.shape[: len(rows)] != rows:
            raise CodecError(f"a shard's {slot.name} has shape {slot.shape}")
    if slots[-1].dtype != _OF_WIRE[wire]:
        raise CodecError(f"a shard's {slots[-1].name} has dtype {slots[-1].dtype}, which is not that of wire {wire}")


def _arrays(view: memoryview, start: int, slots: list[_Slot]) -> dict[str, Array]:
    """The raw tensors, read-only and without a copy."""
    expected = start + sum(slot.size_bytes for slot in slots)
    if expected != len(view):
        raise CodecError(f"a shard has {len(view)} bytes, but its shapes need {expected}")
    arrays = {}
    for slot in slots:
        end = start + slot.size_bytes
        arrays[slot.name] = _array(view[start:end], slot).reshape(slot.shape)
        start = end
    return arrays


def _array(raw: memoryview, slot: _Slot) -> Array:
    if slot.dtype == "bool":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=math.prod(slot.shape)).view(np.bool_)
    return np.frombuffer(raw, _DTYPES[slot.dtype])


def _unpack(blob: bytes | memoryview) -> Any:
    try:
        return msgpack.unpackb(blob, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CodecError(f"a message from the queue is not msgpack: {error!s:.80}") from error


def _check_protocol(found: object) -> None:
    if found != PROTOCOL or isinstance(found, bool):
        raise CodecError(
            f"received a message of queue protocol {found!r:.20}, but this process uses {PROTOCOL}: "
            f"install the same version of sparring on the trainer and on every worker"
        )


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise CodecError(f"{name} is {value!r:.20}, not a count")
    return value


def _is_radius(value: object) -> bool:
    """Whether it is a positive number within the range of float32; NaN is not."""
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= MAX_EPSILON
