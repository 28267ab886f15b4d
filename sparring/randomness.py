"""All randomness is keyed by what it is for, never by attempt, worker or time: the same key, the same numbers."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """A CPU generator of its own stream for (seed, purpose, keys)."""
    name = ":".join([str(seed), purpose, *map(str, keys)])
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
