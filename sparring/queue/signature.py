"""Keyed checksums: what was changed on its way, or sent by somebody without the run's secret, is refused.

HMAC-SHA-256 (RFC 2104), its first 16 bytes. The secret is made anew for each life of a run and reaches the trainer and
the workers through Ray. An empty one still finds damage.
"""

from __future__ import annotations

import hmac

TAG_BYTES = 16


def tag_of(secret: bytes, *parts: bytes | memoryview) -> bytes:
    """The checksum of `parts`, each with its length, so that nothing can pass from one part into the next."""
    made = hmac.new(secret, digestmod="sha256")
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.digest()[:TAG_BYTES]


def signed(secret: bytes, message: bytes) -> bytes:
    """The message behind its checksum."""
    return tag_of(secret, message) + message


def verified(secret: bytes, message: bytes) -> memoryview | None:
    """The message without its checksum; None where the two do not belong together."""
    content = memoryview(message)[TAG_BYTES:]
    return content if hmac.compare_digest(message[:TAG_BYTES], tag_of(secret, content)) else None
