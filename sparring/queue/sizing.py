"""How much memory the queue's server needs for what a run may have outstanding."""

from __future__ import annotations

from sparring.config import Config, depth, makes_views, tickets_at_once
from sparring.errors import UsageError
from sparring.queue.codec import payload_bytes, ticket_bytes

MEMORY_FACTOR, MEMORY_SLACK_BYTES = 1.3, 64 << 20
SMALL_BYTES, LARGEST_BYTES = 4 << 20, 256 << 20  # of weights: through Redis by default, and at most


def needed_memory(config: Config, shape: tuple[int, int, int], snapshot_bytes: int) -> int:
    """The least maxmemory in bytes for examples of `shape` [C, H, W]: outstanding payload, the snapshots of the weights
    that travel through the queue, and some room."""
    snapshots = 0 if through_object_store(config, snapshot_bytes) else (kept_snapshots(config) + 1) * snapshot_bytes
    return int(MEMORY_FACTOR * (outstanding_bytes(config, shape) + snapshots)) + MEMORY_SLACK_BYTES


def kept_snapshots(config: Config) -> int:
    """How many snapshots are kept: under lockstep all that a ticket may still name."""
    return depth(config.staleness) + 2 if config.staleness.lockstep else 2


def through_object_store(config: Config, snapshot_bytes: int) -> bool:
    """Whether weights of this size travel through Ray's object store; every process comes to the same answer.

    Raises:
        UsageError: they are told to travel through Redis, which holds no value so large.
    """
    if config.queue.weights != "redis":
        return config.queue.weights == "object_store" or snapshot_bytes > SMALL_BYTES
    if snapshot_bytes > LARGEST_BYTES:
        raise UsageError(
            f"queue.weights = 'redis' with {snapshot_bytes / 2**20:.0f} MiB of weights: Redis holds no value above 512 "
            f"MiB, and so large ones would fill it. Set queue.weights to 'auto' or 'object_store'."
        )
    return False


def outstanding_bytes(config: Config, shape: tuple[int, int, int]) -> int:
    """Payload of all shards that may be outstanding, at the largest size of data.phases, and their tickets where these
    carry starts; under exchange the attack-to-step ratio is taken as 16."""
    channels, height, width = shape
    side = max((phase.size for phase in config.data.phases), default=0)
    largest = (channels, max(height, side), max(width, side))
    in_flight = max(config.workers.count * tickets_at_once(config), 16)
    shards = (depth(config.staleness) + 1) * config.train.shards_per_step + in_flight
    size = config.train.batch_size
    starts = ticket_bytes(size, largest) if config.attack.start == "last" else 0
    wire = "uint8" if makes_views(config) else config.queue.wire
    return shards * (payload_bytes(size, largest, wire, "l2") + starts)
