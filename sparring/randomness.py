"""Random numbers that depend only on a key (seed, purpose, epoch, ...), never on attempt, worker or time."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """A CPU generator whose stream depends only on (seed, purpose, keys)."""
    name = ":".join([str(seed), purpose, *map(str, keys)])
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
