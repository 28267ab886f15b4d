"""Random numbers that depend only on a key (seed, purpose, epoch, ...), never on attempt, worker or time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """A CPU generator whose stream depends only on (seed, purpose, keys)."""
    name = ":".join([str(seed), purpose, *map(str, keys)])
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@contextmanager
def seeded(device: torch.device, seed: int, purpose: str, *keys: int) -> Iterator[None]:
    """Inside, what torch draws without a generator (dropout) depends only on (seed, purpose, keys); afterwards its
    streams go on as if nothing had been drawn. device: besides the CPU, where is drawn."""
    number, on_gpu = generator(seed, purpose, *keys).initial_seed(), device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(number)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield
