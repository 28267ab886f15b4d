"""How much memory the queue's server needs for what a run may have outstanding."""

from __future__ import annotations

from sparring.config import Config, depth
from sparring.queue.codec import payload_bytes

MEMORY_FACTOR, MEMORY_SLACK_BYTES = 1.3, 64 << 20


def needed_memory(config: Config, shape: tuple[int, int, int]) -> int:
    """The least maxmemory in bytes for examples of `shape` [C, H, W]: the outstanding payload and some room."""
    return int(MEMORY_FACTOR * outstanding_bytes(config, shape)) + MEMORY_SLACK_BYTES


def outstanding_bytes(config: Config, shape: tuple[int, int, int]) -> int:
    """Payload of all shards that may be outstanding; under exchange the attack-to-step ratio is taken as 16."""
    shards = (depth(config.staleness) + 1) * config.train.shards_per_step + max(config.workers.count, 16)
    return shards * payload_bytes(config.train.batch_size, shape, config.queue.wire, config.attack.norm)
