"""The memory that the queue's server needs for the outstanding shards of a run."""

from __future__ import annotations

from sparring.config import Config, QueueSettings, StalenessSettings, depth, tickets_at_once
from sparring.errors import UsageError
from sparring.queue.codec import payload_bytes, ticket_bytes

MEMORY_FACTOR, MEMORY_SLACK_BYTES = 1.3, 64 << 20
SMALL_BYTES, LARGEST_BYTES = 4 << 20, 256 << 20  # weights that go through Redis: by default up to, and at most


def needed_memory(config: Config, shape: tuple[int, int, int], snapshot_bytes: int, views: bool = False) -> int:
    """The smallest maxmemory, in bytes, for examples of `shape` [C, H, W]; `views`: see `outstanding_bytes`.

    It covers the outstanding payload (unless servers of queue.payload_urls keep it), the snapshots of the weights if
    they go through the queue, and a reserve.
    """
    snapshots = (
        0
        if through_object_store(config.queue, snapshot_bytes)
        else (kept_snapshots(config.staleness) + 1 + config.evaluation.rolling) * snapshot_bytes
    )
    here = 0 if config.queue.payload_urls else outstanding_bytes(config, shape, views)
    return int(MEMORY_FACTOR * (here + snapshots)) + MEMORY_SLACK_BYTES


def payload_memory(config: Config, shape: tuple[int, int, int], views: bool = False) -> int:
    """The smallest maxmemory, in bytes, of each server of queue.payload_urls; 0: there are none."""
    servers = len(config.queue.payload_urls)
    if not servers:
        return 0
    return int(MEMORY_FACTOR * outstanding_bytes(config, shape, views) / servers) + MEMORY_SLACK_BYTES


def kept_snapshots(settings: StalenessSettings) -> int:
    """Number of snapshots that are kept; under lockstep and with a fresh finish all that a ticket may still need."""
    return depth(settings) + 2 if settings.lockstep or settings.finish != "off" else 2


def through_object_store(queue: QueueSettings, snapshot_bytes: int) -> bool:
    """Whether weights of this size are sent through Ray's object store. The result is the same in every process.

    Raises:
        UsageError: queue.weights is 'redis', and the weights are too large for it.
    """
    if queue.weights != "redis":
        return queue.weights == "object_store" or snapshot_bytes > SMALL_BYTES
    if snapshot_bytes > LARGEST_BYTES:
        raise UsageError(
            f"queue.weights = 'redis' with {snapshot_bytes / 2**20:.0f} MiB of weights: the limit is "
            f"{LARGEST_BYTES >> 20} MiB, since Redis stores no value above 512 MiB. Set queue.weights to 'auto' or "
            f"'object_store'."
        )
    return False


def outstanding_bytes(config: Config, shape: tuple[int, int, int], views: bool = False) -> int:
    """Payload of all shards that may be outstanding, in bytes, with images of the largest size in data.phases.

    views: shards carry views of the images. Tickets are included if they carry starting points. For in-flight exchange
    the ratio of attack time to step time is assumed to be at most 16.
    """
    channels, height, width = shape
    side = max((phase.size for phase in config.data.phases), default=0)
    largest = (channels, max(height, side), max(width, side))
    in_flight = max(config.workers.count * tickets_at_once(config, views) + config.trainer.count - 1, 16)
    shards = (depth(config.staleness) + 1) * config.train.shards_per_step + in_flight
    size = config.train.batch_size
    starts = ticket_bytes(size, largest) if config.attack.start == "last" else 0
    wire = "uint8" if views else config.queue.wire
    return shards * (payload_bytes(size, largest, wire, "l2") + starts)
