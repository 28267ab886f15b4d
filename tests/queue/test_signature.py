"""What was changed on its way, or sent by somebody without the secret, is refused."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from sparring.queue.signature import TAG_BYTES, signed, tag_of, verified


def test_the_checksum_is_that_of_rfc_2104_over_the_parts_with_their_lengths() -> None:
    content = b"\0\0\0\0\0\0\0\3abc" + b"\0\0\0\0\0\0\0\1d"
    assert tag_of(b"key", b"abc", b"d") == hmac.digest(b"key", content, hashlib.sha256)[:16]
    assert tag_of(b"key", b"ab", b"cd") != tag_of(b"key", b"abc", b"d")


@given(st.binary(max_size=200), st.binary(max_size=40), st.data())
def test_a_message_comes_back_and_no_changed_one_does(message: bytes, secret: bytes, data: st.DataObject) -> None:
    sent = signed(secret, message)
    content = verified(secret, sent)
    assert content is not None and content == message and len(sent) == TAG_BYTES + len(message)
    changed = bytearray(sent)
    changed[data.draw(st.integers(0, len(sent) - 1))] ^= data.draw(st.integers(1, 255))
    assert verified(secret, bytes(changed)) is None
    assert verified(secret, sent[:-1]) is None and verified(secret, sent + b"\0") is None
    assert verified(secret + b"other", sent) is None
