"""The state of a run: one flat record for the live view, `sparring status` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

SMOOTHED_STEPS = 50  # that loss and training accuracy are the mean of


@dataclass
class RunState:
    """Counters since the beginning of the run (a resume keeps them) and the latest values.

    Staleness is counted per shard, in trainer steps. `in_flight` is the part before the shard reached the trainer,
    `in_queue` the part after. Times are in seconds, sizes in bytes, accuracies are shares in [0, 1]. None: not measured
    yet.

    rolling_…: of the last judged version of a rolling evaluation, of the best one, and (rolling_judged…) how far the
    one is that is judged now: examples, and of these the robust ones.
    """

    phase: str = "starting"
    engine: str = ""
    dataset: str = ""
    data: str = ""
    method: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    examples: int = 0
    seconds: float = 0.0
    examples_per_second: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    epsilon: float | None = None
    train_robust_accuracy: float | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    heldout_samples: int = 0
    heldout_interval: tuple[float, float] | None = None
    heldout_attack: str = ""
    rolling_version: int = 0
    rolling_clean_accuracy: float | None = None
    rolling_accuracy: float | None = None
    rolling_interval: tuple[float, float] | None = None
    rolling_samples: int = 0
    rolling_attack: str = ""
    rolling_best: float | None = None
    rolling_best_version: int = 0
    rolling_judged_version: int = 0
    rolling_judged: int = 0
    rolling_judged_robust: int = 0
    fresh_minus_stale: float | None = None
    fresh_minus_stale_loss: float | None = None
    staleness_level: int = 0
    staleness_decisions: Counter[str] = field(default_factory=Counter)
    max_staleness: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    in_flight: Counter[int] = field(default_factory=Counter)
    in_queue: Counter[int] = field(default_factory=Counter)
    drift_sum: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    set_aside: int = 0
    missing: int = 0
    outstanding: int = 0
    ready: int = 0
    leased: int = 0
    queue_bytes: int = 0
    queue_limit_bytes: int | None = None
    payload_servers_down: int = 0
    queue_received_bytes: int = 0
    queue_sent_bytes: int = 0
    wait_seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0
    attack_seconds: float = 0.0
    full_attack_seconds: float = 0.0
    theoretical_speedup: float | None = None
    gradients: int = 0
    kept: int | None = None
    pruning_seconds: float = 0.0
    robust_share: float = 0.0
    allocated: Counter[str] = field(default_factory=Counter)
    trainer_shards: int = 0
    worker_shards: int = 0
    refresh_steps: int = 0
    publications: int = 0
    publish_seconds: float = 0.0
    publish_bytes: int = 0
    version: int = 0
    fence: int = 0
    workers_wanted: int = 0
    checkpointed: float | None = None
    trainer_restarts: int = 0
    rollbacks: int = 0
    overfittings: int = 0
    pgd_until: int = 0
    guard_accuracy: float | None = None
    skipped_steps: int = 0
    steps_without_gradient: int = 0
    unmoved_steps: int = 0
    attack_zero_gradients: int = 0
    attack_non_finite_gradients: int = 0
    evaluation: dict[str, float | None] = field(default_factory=dict)
    trainer_pid: int = 0
    updated: float = 0.0
    message: str = ""

    def consumed(self, staleness: int, in_flight: int = 0, in_queue: int = 0, drift: float = 0.0) -> None:
        """Count one consumed shard."""
        self.staleness[staleness] += 1
        self.in_flight[in_flight] += 1
        self.in_queue[in_queue] += 1
        self.drift_sum += drift

    @property
    def wallclock_speedup(self) -> float | None:
        """Speed-up in seconds of work: (full attacks + steps) / (actual attacks + steps); see `Shard.full_seconds`.

        None without an allocator.
        """
        if self.theoretical_speedup is None or self.full_attack_seconds == 0:
            return None
        return (self.full_attack_seconds + self.step_seconds) / (self.attack_seconds + self.step_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON; counters have string keys."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: {str(key): count for key, count in sorted(value.items())} if isinstance(value, Counter) else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunState:
        """The inverse of `as_dict`. Unknown names, of a newer version, are ignored.

        Raises:
            ValueError: a value is not of its kind.
        """
        state = cls()
        for name in {each.name for each in fields(cls)} & values.keys():
            current, value = getattr(state, name), values[name]
            if not _is_like(current, value):
                raise ValueError(f"{name} = {value!r:.80} is no such value as {current!r:.80}")
            if isinstance(current, Counter):
                by_number = name in ("staleness", "in_flight", "in_queue")
                value = Counter({int(key) if by_number else key: count for key, count in value.items()})
            setattr(state, name, value)
        return state


def _is_like(current: Any, value: Any) -> bool:
    """Whether a value from JSON is of the kind of a field's default."""
    if isinstance(current, dict):
        return isinstance(value, dict) and all(isinstance(each, int | float) for each in value.values())
    if isinstance(current, str):
        return isinstance(value, str)
    if current is None and (value is None or isinstance(value, list | tuple)):
        return value is None or all(isinstance(each, int | float) for each in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


Heartbeats = dict[str, dict[str, Any]]  # what each worker last reported, by its name
Report = Callable[[RunState, Heartbeats], None]


def staleness_summary(histogram: dict[str, int] | Counter[int]) -> tuple[float, int]:
    """Mean and maximum of a staleness histogram; (0, 0) if it is empty."""
    counts = {int(staleness): count for staleness, count in histogram.items() if count}
    total = sum(counts.values())
    if total == 0:
        return 0.0, 0
    return sum(staleness * count for staleness, count in counts.items()) / total, max(counts)
