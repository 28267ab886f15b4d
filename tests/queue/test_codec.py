"""What goes over the wire comes back inside its ball, and nothing malformed is let in."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.attacks import AttackRecord
from sparring.attacks.norms import l2_norms, per_example, project_ball
from sparring.queue.codec import (
    MAX_HEADER_BYTES,
    MAX_STEPS,
    PROTOCOL,
    CodecError,
    Wire,
    decode_shard,
    decode_ticket,
    encode_shard,
    encode_ticket,
    payload_bytes,
    ticket_bytes,
)
from sparring.queue.messages import Finish, Key, Shard, Ticket

VIEWS = AttackRecord("augmix", "linf", 0.0, 0.0, 1)
TICKET = Ticket(Key(2, 7, 1), fence=3, version=11, indices=(0, 5, 59_999), fingerprint="a1b2")


def inside(delta: Tensor, norm: str, radius: float) -> Tensor:
    """In the ball; that of l1 by scaling."""
    if norm != "l1":
        return project_ball(delta, norm, radius)
    shares = (radius / sizes(delta, norm)).clamp(max=1)
    return delta * per_example(shares)


def sizes(delta: Tensor, norm: str) -> Tensor:
    """[N]: the norm of each example."""
    orders = {"linf": torch.inf, "l2": 2, "l1": 1}
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1).double(), ord=orders[norm], dim=1)
    return found.float()


def shard(norm: str = "linf", radius: float = 8 / 255, n: int = 3, seed: int = 0, scale: float = 2.0) -> Shard:
    """A random shard; `scale` > 1 puts part of it onto the ball's surface."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, 2, 4, 4, generator=generator) * 2 - 1
    delta = inside(noise * radius * scale, norm, radius)
    labels = torch.randint(0, 10, (n,), generator=generator)
    return Shard(
        Key(1, 2, 0),
        4,
        9,
        8,
        AttackRecord("pgd", norm, radius / 2, radius, 10),
        delta,
        labels,
        worker="w-0",
        attack_seconds=0.25,
        cost_seconds=0.125,
        full_seconds=0.5,
        gradients=30,
        zero_gradients=2,
        non_finite_gradients=1,
        classes={"outlier": 1, "boundary": 2, "of one's own": 0},
        attacked_by=((8, 3), (9, 5)),
    )


def shard_of_views(n: int = 3) -> Shard:
    """AugMix's views of as many random images."""
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(0, 256, (2, n, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n)
    return Shard(Key(1, 2, 0), 4, 9, 9, VIEWS, torch.empty(0), labels, worker="w-0", classes={"all": n}, views=views)


MALFORMED_FINISHES: list[object] = [
    1,
    [1],
    [1, "0.1"],
    [-1, 0.1],
    [True, 0.1],
    [1, -0.1],
    [1, float("nan")],
    [1, 0.1, 2],
]
WAYS: list[tuple[Wire, str]] = [("int8", "linf"), ("int8", "l2"), ("exact", "linf"), ("exact", "l2"), ("sign", "linf")]
UNKNOWN: list[tuple[Wire, str]] = [("int8", "l1"), ("exact", "l1")]  # the norm of an attack of the user's own


def plain(found: Shard) -> dict[str, Any]:
    return {name: value for name, value in found.__dict__.items() if name not in ("delta", "labels", "views")}


def made_with(**parts: Any) -> dict[str, Any]:
    """A header's attack, with these parts of it changed."""
    record = AttackRecord("pgd", "linf", 4 / 255, 8 / 255, 10)
    return {"attack": list({**record._asdict(), **parts}.values())}


def rewritten(change: Callable[[dict[str, Any]], None], payload: bytes | None = None) -> bytes:
    """A payload with another header, the raw tensors as they were."""
    payload = payload or encode_shard(shard(), "int8")
    (length,) = struct.unpack_from(">I", payload)
    header, raw = msgpack.unpackb(payload[4 : 4 + length]), payload[4 + length + -(4 + length) % 8 :]
    change(header)
    packed: bytes = msgpack.packb(header)
    return struct.pack(">I", len(packed)) + packed + bytes(-(4 + len(packed)) % 8) + raw


@pytest.mark.parametrize("finish", [None, Finish(7, 0.1), Finish(0, 0.0)])
def test_a_ticket_comes_back_as_it_was(finish: Finish | None) -> None:
    ticket = replace(TICKET, finish=finish)
    assert decode_ticket(encode_ticket(ticket)) == ticket


def test_the_starts_that_a_ticket_carries_come_back_as_they_were() -> None:
    warm = replace(TICKET, starts=(b"\x00\x81\x7f\x01", None, b"\xff\x00\x00\x00"))
    blob = encode_ticket(warm)
    assert decode_ticket(blob) == warm
    assert len(blob) <= ticket_bytes(3, (1, 2, 2))


def test_a_well_formed_ticket_of_plain_fields_is_taken() -> None:
    plain_fields = [PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], [b"\x01", None], None]
    assert decode_ticket(msgpack.packb(plain_fields)).starts == (b"\x01", None)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        msgpack.packb({"protocol": 1}),
        msgpack.packb([PROTOCOL + 1, 0, 0, 0, 0, 0, "f", [], [], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [-1], [], None]),
        msgpack.packb([PROTOCOL, 0, 0, True, 0, 0, "f", [1], [], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", ["1"], [], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], [b"\x01"], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], [b"\x01", b"\x01\x02"], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], [b"\x01", b"\x80"], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], [b"", None], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], ["a", None], None]),
        msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1, 2], None, None]),
        *(msgpack.packb([PROTOCOL, 0, 0, 0, 0, 0, "f", [1], [], finish]) for finish in MALFORMED_FINISHES),
        b"\x91" * 5000,
        encode_ticket(TICKET)[:-1],
        encode_ticket(TICKET) + b"\x00",
    ],
)
def test_a_malformed_ticket_is_refused(blob: bytes) -> None:
    with pytest.raises(CodecError):
        decode_ticket(blob)


@pytest.mark.parametrize(("wire", "norm"), WAYS + UNKNOWN)
def test_what_rides_along_comes_back_as_it_was(wire: Wire, norm: str) -> None:
    sent = shard(norm)
    payload = encode_shard(sent, wire)
    got = decode_shard(memoryview(payload))
    assert plain(got) == plain(sent)
    assert got.labels.dtype == torch.int64 and torch.equal(got.labels, sent.labels)
    assert got.delta.dtype == torch.float32 and got.delta.shape == sent.delta.shape
    assert len(payload) <= payload_bytes(3, (2, 4, 4), wire, norm)


@pytest.mark.parametrize(("wire", "norm"), WAYS)
def test_views_come_back_bit_for_bit_whatever_perturbations_travel_as(wire: Wire, norm: str) -> None:
    sent = shard_of_views()
    payload = encode_shard(sent, wire)
    got = decode_shard(payload)
    assert plain(got) == plain(sent) and torch.equal(got.labels, sent.labels)
    assert got.views is not None and sent.views is not None
    assert got.views.dtype == torch.uint8 and torch.equal(got.views, sent.views)
    assert got.delta.numel() == 0 and got.radius == 0
    raw = 8 * 3 + 2 * 3 * 48
    assert raw < len(payload) <= payload_bytes(3, (3, 4, 4), "uint8", norm) <= raw + 1024


@pytest.mark.parametrize(
    "entry",
    [
        ["views", "int8", [2, 3, 3, 4, 4]],
        ["views", "uint8", [3, 2, 3, 4, 4]],  # 3 examples of 2 views, in the other order
        ["views", "uint8", [1, 3, 6, 4, 4]],
        ["views", "uint8", [2, 2, 3, 4, 6]],
        ["views", "uint8", [2, 3, 48]],
        ["views", "uint8", [2, 3, 3, 4, 4, 1]],
        ["views", "uint8", [2, 3, 3, 4, 5]],
        ["views", "uint8", [2, 3, 2**40, 2**40, 4]],
        ["views", "uint8", []],
        ["delta", "uint8", [2, 3, 3, 4, 4]],
    ],
    ids=str,
)
def test_views_that_do_not_fit_are_refused(entry: object) -> None:
    payload = encode_shard(shard_of_views(), "int8")
    with pytest.raises(CodecError):
        decode_shard(rewritten(lambda header: header["tensors"].__setitem__(1, entry), payload))


@pytest.mark.parametrize(
    "change",
    [made_with(radius=0.1), made_with(radius=False), made_with(radius=None), {"wire": "int8"}, {"wire": "exact"}],
    ids=str,
)
def test_views_with_the_header_of_an_attack_are_refused(change: dict[str, Any]) -> None:
    payload = encode_shard(shard_of_views(), "int8")
    with pytest.raises(CodecError):
        decode_shard(rewritten(lambda header: header.update(change), payload))


def test_views_that_are_no_uint8_or_have_a_radius_are_not_sent() -> None:
    sent = shard_of_views()
    assert sent.views is not None
    for wrong in (
        replace(sent, views=sent.views.float()),
        replace(sent, views=sent.views[0]),
        replace(sent, attack=VIEWS._replace(radius=1.0)),
    ):
        with pytest.raises(CodecError):
            encode_shard(wrong, "int8")


@given(epsilon=st.floats(1e-4, 1.0), seed=st.integers(0, 2**31), scale=st.floats(0.0, 3.0))
@settings(max_examples=100, deadline=None)
def test_int8_under_linf_is_off_by_half_a_step_at_most_and_inside_the_ball(
    epsilon: float, seed: int, scale: float
) -> None:
    sent = shard("linf", epsilon, seed=seed, scale=scale)
    got = decode_shard(encode_shard(sent, "int8"))
    assert (got.delta - sent.delta).abs().max().item() <= epsilon / 254 + 1e-7
    assert got.delta.abs().max().item() <= epsilon + 1e-6


@given(epsilon=st.floats(1e-3, 10.0), seed=st.integers(0, 2**31), scale=st.floats(0.0, 3.0))
@settings(max_examples=100, deadline=None)
def test_int8_under_l2_is_off_by_half_a_step_of_each_example_and_inside_the_ball(
    epsilon: float, seed: int, scale: float
) -> None:
    sent = shard("l2", epsilon, seed=seed, scale=scale)
    got = decode_shard(encode_shard(sent, "int8"))
    error = l2_norms(got.delta - sent.delta)
    half_steps = sent.delta.flatten(1).abs().amax(dim=1) / 254
    # The projection moves a point that lies outside no farther than the nearest point of the ball does.
    assert (error <= 2 * half_steps * sent.delta[0].numel() ** 0.5 + 1e-6).all()
    assert (l2_norms(got.delta) <= epsilon * (1 + 1e-6)).all()


@given(epsilon=st.floats(1e-3, 10.0), seed=st.integers(0, 2**31), scale=st.floats(0.0, 3.0))
@settings(max_examples=100, deadline=None)
def test_int8_under_a_norm_of_the_users_own_does_not_lead_out_of_its_ball(
    epsilon: float, seed: int, scale: float
) -> None:
    sent = shard("l1", epsilon, seed=seed, scale=scale)
    got = decode_shard(encode_shard(sent, "int8"))
    assert (sizes(got.delta, "l1") <= sizes(sent.delta, "l1") * (1 + 1e-6)).all()
    steps = sent.delta.flatten(1).abs().amax(dim=1) / 127
    assert ((got.delta - sent.delta).flatten(1).abs() <= steps[:, None] + 1e-6).all()


@given(norm=st.sampled_from(["linf", "l2", "l1"]), epsilon=st.floats(1e-3, 10.0), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_exact_is_bit_for_bit(norm: str, epsilon: float, seed: int) -> None:
    sent = shard(norm, epsilon, seed=seed)
    got = decode_shard(encode_shard(sent, "exact"))
    assert got.delta.numpy().tobytes() == sent.delta.numpy().tobytes()


def test_examples_without_a_perturbation_survive() -> None:
    sent = shard("l2", scale=0.0)
    assert torch.equal(decode_shard(encode_shard(sent, "int8")).delta, torch.zeros_like(sent.delta))


@pytest.mark.parametrize(("wire", "norm"), WAYS)
def test_a_sender_that_lies_about_its_ball_is_projected_into_it(wire: Wire, norm: str) -> None:
    payload = encode_shard(shard(norm, radius=1.0), wire)
    got = decode_shard(rewritten(lambda header: header.update(made_with(norm=norm, radius=0.01)), payload))
    assert sizes(got.delta, norm).max().item() <= 0.01 + 1e-6


def test_signs_bring_every_value_to_its_corner_and_leave_what_was_not_attacked() -> None:
    sent = shard()
    sent.delta[0] = 0
    sent.delta[1].clamp_(-0.5 * sent.radius, 0.5 * sent.radius)
    got = decode_shard(encode_shard(sent, "sign")).delta
    largest = sent.delta.flatten(1).abs().amax(dim=1)
    assert torch.equal(got[0], torch.zeros_like(got[0])) and 0 < largest[1] < largest[2]
    assert torch.equal(got.flatten(1).abs(), largest[:, None].expand(-1, 32))
    perturbed = sent.delta != 0
    assert torch.equal(got.sign()[perturbed], sent.delta.sign()[perturbed])


def test_a_sign_takes_one_bit() -> None:
    sent = shard()
    exact, signs = (len(encode_shard(sent, wire)) for wire in ("exact", "sign"))
    count = sent.delta.numel()
    assert abs(exact - signs - (4 * count - count // 8 - 4 * len(sent.delta))) < 64, "but for the header's names"


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_signs_and_another_ball_than_that_of_linf_are_refused_on_both_sides(norm: str) -> None:
    with pytest.raises(CodecError, match="outside every ball but that of L∞"):
        encode_shard(shard(norm), "sign")
    with pytest.raises(CodecError, match="outside every ball but that of L∞"):
        decode_shard(rewritten(lambda header: header.update(made_with(norm=norm)), encode_shard(shard(), "sign")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0])
def test_a_perturbation_outside_its_ball_is_not_sent(value: float) -> None:
    sent = shard()
    sent.delta[0, 0, 0, 0] = value
    with pytest.raises(CodecError, match="outside its ball"):
        encode_shard(sent, "int8")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("other dtype", ["delta", "float64", [3, 2, 4, 4]]),
        ("an object", ["delta", "object", [3, 2, 4, 4]]),
        ("float32 where int8 is due", ["delta", "float32", [3, 2, 4, 1]]),
        ("too large", ["delta", "int8", [3, 2, 4, 5]]),
        ("far too large", ["delta", "int8", [3, 2**40, 2**40, 4]]),
        ("negative", ["delta", "int8", [3, -2, -4, 4]]),
        ("empty", ["delta", "int8", [3, 0, 4, 4]]),
        ("other rank", ["delta", "int8", [3, 32]]),
        ("very high rank", ["delta", "int8", [3, 2, 4, 4] + [1] * 1000]),
        ("other number of examples", ["delta", "int8", [2, 3, 4, 4]]),
        ("other tensor", ["images", "int8", [3, 2, 4, 4]]),
        ("no list", "delta"),
        ("dimension no number", ["delta", "int8", [3, "2", 4, 4]]),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(name: str, entry: object) -> None:
    with pytest.raises(CodecError):
        decode_shard(rewritten(lambda header: header["tensors"].__setitem__(1, entry)))


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": PROTOCOL + 1},
        {"protocol": True},
        {"protocol": None},
        {"attack": None},
        {"attack": "pgd"},
        {"attack": []},
        {"attack": ["pgd", "linf", 0.1, 0.1]},
        {"attack": ["pgd", "linf", 0.1, 0.1, 10, 1]},
        {"attack": {"name": "pgd", "norm": "linf", "epsilon": 0.1, "radius": 0.1, "steps": 10}},
        made_with(name=7),
        made_with(name="p" * 129),
        made_with(norm="l1"),
        made_with(norm="l2"),
        made_with(norm=["linf"]),
        made_with(norm="l" * 129),
        *(made_with(radius=value) for value in (math.nan, math.inf, 0.0, 1e40, -1.0, "1", 1, None, True)),
        *(made_with(epsilon=value) for value in (math.nan, math.inf, 1e40, -1.0, "1", 1, None)),
        *(made_with(steps=value) for value in (-1, 0, 2.5, True, "3", None, 2**60)),
        {"attacked_by": None},
        {"attacked_by": [3]},
        {"attacked_by": [[3]]},
        {"attacked_by": [[3, -1]]},
        {"attacked_by": [[3, 1.5]]},
        {"attacked_by": [["3", 1]]},
        {"attacked_by": [[0, 0]] * (MAX_STEPS + 1)},
        {"classes": None},
        {"classes": [1, 2, 3]},
        {"classes": {"outlier": -1}},
        {"classes": {"outlier": 1.5}},
        {"classes": {"outlier": True}},
        {"classes": {"outlier": None}},
        {"classes": {7: 1}},
        {"classes": {"o" * 129: 1}},
        {"classes": {str(number): 0 for number in range(65)}},
        {"wire": "pickle"},
        {"wire": {"a": 1}},
        {"wire": "exact"},
        {"key": [1, 2]},
        {"key": "123"},
        {"version": -1},
        {"fence": 2**60},
        {"worker": 7},
        {"worker": "w" * 1000},
        {"attack_seconds": float("inf")},
        {"full_seconds": 1},
        {"tensors": []},
        {"tensors": None},
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_header_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode_shard(rewritten(lambda header: header.update(change)))


def test_another_protocol_is_refused_with_the_remedy() -> None:
    with pytest.raises(CodecError, match="install the same version"):
        decode_shard(rewritten(lambda header: header.update(protocol=99)))


@pytest.mark.parametrize("name", ["key", "attack", "wire", "tensors", "gradients", "classes", "attacked_by"])
def test_a_header_that_lacks_a_field_is_refused(name: str) -> None:
    with pytest.raises(CodecError, match=name):
        decode_shard(rewritten(lambda header: header.pop(name)))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e38, -1.0, 0.0])
def test_scales_that_are_not_positive_numbers_are_refused(scale: float) -> None:
    payload = bytearray(encode_shard(shard("l2"), "int8"))
    at = len(payload) - 3 * 32 - 3 * 4
    payload[at : at + 4] = struct.pack("<f", scale)
    with pytest.raises(CodecError, match="scales"):
        decode_shard(bytes(payload))


def test_a_perturbation_that_is_not_finite_is_refused() -> None:
    payload = bytearray(encode_shard(shard(), "exact"))
    payload[-4:] = struct.pack("<f", float("nan"))
    with pytest.raises(CodecError, match="finite"):
        decode_shard(bytes(payload))


def test_a_truncated_or_padded_payload_is_refused() -> None:
    payload = encode_shard(shard(), "int8")
    for cut in range(len(payload)):
        with pytest.raises(CodecError):
            decode_shard(payload[:cut])
    with pytest.raises(CodecError):
        decode_shard(payload + b"\x00")


def test_a_huge_header_is_refused_before_it_is_read() -> None:
    size = MAX_HEADER_BYTES + 1
    with pytest.raises(CodecError, match="header claims"):
        decode_shard(struct.pack(">I", size) + bytes(size))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    for decode in (decode_shard, decode_ticket):
        with pytest.raises(CodecError):
            decode(noise)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("wire", "norm"), WAYS)
@given(position=st.integers(0, 1000), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_payload_is_refused_or_still_inside_its_ball(
    wire: Wire, norm: str, position: int, value: int
) -> None:
    payload = bytearray(encode_shard(shard(norm), wire))
    payload[position % len(payload)] = value
    try:
        got = decode_shard(bytes(payload))
    except CodecError:
        return
    ball = got.attack.norm if got.attack.norm in ("linf", "l2") else "linf"  # of another one the codec knows no more
    assert sizes(got.delta, ball).max().item() <= got.radius * (1 + 2e-6)
