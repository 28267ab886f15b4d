"""The metrics of a run. `METRICS` is the only place where a metric is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from sparring.observe.state import RunState

Workers = Mapping[str, Mapping[str, Any]]
Labelled = tuple[tuple[str, ...], Any]
Source = Callable[[RunState, Workers], Iterable[Labelled]]
# Known reasons for dropping a shard. Any other reason is exported once it occurs.
DROP_REASONS = (
    *("stale", "ahead", "superseded", "lease_expired", "failed", "failed_together", "queue_full", "queue_lost"),
    *("unheld", "ticket_corrupt", "payload_missing", "payload_corrupt"),
)
REFUSED = (
    *("fence", "heartbeat", "member", "piece", "pool", "returned", "state", "ticket", "verdict", "weights"),
    "worker_target",
)


# Of an evaluation by workers: name, type, meaning, field of `RunState.evaluation`.
EVALUATION: tuple[tuple[str, Literal["counter", "gauge"], str, str], ...] = (
    ("examples", "gauge", "Examples to be judged.", "examples"),
    ("judged_examples_total", "counter", "Examples whose verdict is known.", "judged"),
    ("robust_examples", "gauge", "Of the judged examples those that are robust.", "robust"),
    ("tickets", "gauge", "Tickets of the attack that is on, or of all attacks in mode fast.", "tickets"),
    ("done_tickets", "gauge", "Of these tickets those that are done.", "tickets_done"),
    ("workers", "gauge", "Workers that work.", "workers"),
    ("worker_deaths_total", "counter", "Deaths of workers; their tickets were given to others.", "deaths"),
    ("left_seconds", "gauge", "Seconds left, of the attack that is on, or of all in mode fast.", "seconds_left"),
)


class Metric(NamedTuple):
    """One exported metric. `source` yields (label values, value) pairs; a value of None is left out."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    source: Source
    labels: tuple[str, ...] = ()


def of_state(field: str) -> Source:
    """A field of the run's state."""
    return lambda state, workers: [((), getattr(state, field))]


def by_reason(field: str, *known: str) -> Source:
    """A counter of the run by reason. The `known` reasons start at 0, because a rate needs two values."""
    return lambda state, workers: [
        ((reason,), value) for reason, value in {**dict.fromkeys(known, 0), **getattr(state, field)}.items()
    ]


def of_evaluation(name: str) -> Source:
    """A number of the evaluation by tickets that is under way."""
    return lambda state, workers: [((), state.evaluation.get(name, 0))]


def of_workers(field: str) -> Source:
    """A number of the workers' heartbeats; a worker that does not report it is left out."""
    return lambda state, workers: [((worker,), number(beat.get(field))) for worker, beat in workers.items()]


def number(value: object) -> float | None:
    """`value` as a float if it is a number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def waits(beat: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that a worker has waited, by reason."""
    by_name = beat.get("wait_seconds")
    readings = by_name.items() if isinstance(by_name, Mapping) else ()
    return {str(reason): seconds for reason, value in readings if (seconds := number(value)) is not None}


def _worker_waits(state: RunState, workers: Workers) -> Iterator[Labelled]:
    for worker, beat in workers.items():
        for reason, seconds in waits(beat).items():
            yield (worker, reason), seconds


def _worker_classes(state: RunState, workers: Workers) -> Iterator[Labelled]:
    for worker, beat in workers.items():
        classes = beat.get("allocated")
        for name, count in classes.items() if isinstance(classes, Mapping) else ():
            yield (worker, str(name)), number(count)


def _worker_info(state: RunState, workers: Workers) -> Iterator[Labelled]:
    for worker, beat in workers.items():
        yield (worker, str(beat.get("node", "")), str(beat.get("pid", ""))), 1


def _consumed(state: RunState, workers: Workers) -> Iterator[Labelled]:
    yield ("worker",), state.worker_shards
    yield ("trainer",), state.trainer_shards


def _network(state: RunState, workers: Workers) -> Iterator[Labelled]:
    yield ("in",), state.queue_received_bytes
    yield ("out",), state.queue_sent_bytes


def _rolling_bounds(state: RunState, workers: Workers) -> Iterator[Labelled]:
    for end, value in zip(("low", "high"), state.rolling_interval or (), strict=False):
        yield (end,), value


def _updated(state: RunState, workers: Workers) -> Iterator[Labelled]:
    yield (), state.updated or None


METRICS: tuple[Metric, ...] = (
    Metric(
        "sparring_info",
        "gauge",
        "Always 1; the labels describe the run.",
        lambda state, workers: [((state.engine, state.dataset, state.phase), 1)],
        ("engine", "dataset", "phase"),
    ),
    Metric(
        "sparring_up",
        "gauge",
        "1 if the run's state could be read. Else 0, and no other metric is exported.",
        lambda state, workers: [((), 1)],
    ),
    Metric("sparring_steps_total", "counter", "Optimizer updates that the trainer has made.", of_state("step")),
    Metric("sparring_planned_steps", "gauge", "Steps of the whole run.", of_state("total_steps")),
    Metric("sparring_epoch", "gauge", "Current epoch, counted from 0.", of_state("epoch")),
    Metric("sparring_planned_epochs", "gauge", "Epochs of the whole run.", of_state("epochs")),
    Metric("sparring_examples_total", "counter", "Examples trained on.", of_state("examples")),
    Metric(
        "sparring_examples_per_second",
        "gauge",
        "Examples trained on per second.",
        of_state("examples_per_second"),
    ),
    Metric(
        "sparring_run_seconds_total",
        "counter",
        "Seconds of training, including those before a resume.",
        of_state("seconds"),
    ),
    Metric(
        "sparring_step_seconds_total",
        "counter",
        "Seconds that the trainer spent in training steps.",
        of_state("step_seconds"),
    ),
    Metric(
        "sparring_trainer_wait_seconds_total",
        "counter",
        "Seconds that the trainer waited, by reason.",
        by_reason("wait_seconds", "first_shard", "shards", "snapshot"),
        ("reason",),
    ),
    Metric(
        "sparring_trainer_restarts_total",
        "counter",
        "How often a trainer that died was restarted from its last checkpoint.",
        of_state("trainer_restarts"),
    ),
    Metric(
        "sparring_state_updated_timestamp_seconds",
        "gauge",
        "When the trainer last reported its state, Unix time in seconds.",
        _updated,
    ),
    Metric(
        "sparring_staleness_steps",
        "histogram",
        "Staleness of consumed shards when they were trained on, in trainer steps.",
        of_state("staleness"),
    ),
    Metric(
        "sparring_staleness_in_flight_steps",
        "histogram",
        "Staleness from the time before a shard reached the trainer, in trainer steps.",
        of_state("in_flight"),
    ),
    Metric(
        "sparring_staleness_in_queue_steps",
        "histogram",
        "Staleness from the time after a shard had reached the trainer, in trainer steps.",
        of_state("in_queue"),
    ),
    Metric(
        "sparring_max_staleness_steps",
        "gauge",
        "The staleness bound: no staler shard is trained on, in trainer steps.",
        of_state("max_staleness"),
    ),
    Metric(
        "sparring_drift_total",
        "counter",
        "Sum of drift over consumed shards: path length of the weights since the shard's version, relative to their "
        "norm. Divide by sparring_staleness_steps_count for the mean.",
        of_state("drift_sum"),
    ),
    Metric(
        "sparring_shards_consumed_total",
        "counter",
        "Shards trained on, by the process that attacked them (worker or trainer).",
        _consumed,
        ("source",),
    ),
    Metric(
        "sparring_shards_dropped_total",
        "counter",
        "Shards that were lost or discarded and whose tickets were issued again, by reason.",
        by_reason("dropped", *DROP_REASONS),
        ("reason",),
    ),
    Metric(
        "sparring_queue_entries_refused_total",
        "counter",
        "Entries of the queue that the trainer refused, by what they were to be; not 0: damage, or an intruder.",
        by_reason("refused", *REFUSED),
        ("what",),
    ),
    Metric(
        "sparring_shards_set_aside_total",
        "counter",
        "Tickets set aside after too many failed attempts; a resume makes them.",
        of_state("set_aside"),
    ),
    Metric(
        "sparring_shards_outstanding",
        "gauge",
        "Shards that were issued and whose training step has not ended yet.",
        of_state("outstanding"),
    ),
    Metric("sparring_shards_leased", "gauge", "Shards that are being attacked now.", of_state("leased")),
    Metric("sparring_shards_ready", "gauge", "Shards that are ready to be trained on.", of_state("ready")),
    Metric(
        "sparring_queue_bytes",
        "gauge",
        "Memory that the queue's server uses, in bytes.",
        of_state("queue_bytes"),
    ),
    Metric(
        "sparring_queue_limit_bytes",
        "gauge",
        "Memory that the queue's server may use (maxmemory), in bytes; absent if there is no limit.",
        of_state("queue_limit_bytes"),
    ),
    Metric(
        "sparring_queue_network_bytes_total",
        "counter",
        "Bytes into and out of the queue's server since its start, for all clients.",
        _network,
        ("direction",),
    ),
    Metric(
        "sparring_gradient_evaluations_total",
        "counter",
        "Input gradients that the attacks on consumed shards and for pruning needed, counted per example.",
        of_state("gradients"),
    ),
    Metric(
        "sparring_attack_zero_gradient_examples_total",
        "counter",
        "Examples trained on whose attack met a gradient of exactly zero.",
        of_state("attack_zero_gradients"),
    ),
    Metric(
        "sparring_attack_non_finite_gradient_examples_total",
        "counter",
        "Examples trained on whose attack met gradients with entries that are not finite, taken as 0.",
        of_state("attack_non_finite_gradients"),
    ),
    Metric(
        "sparring_kept_examples",
        "gauge",
        "Training examples that pruning has kept; absent before the pruning.",
        of_state("kept"),
    ),
    Metric(
        "sparring_pruning_seconds_total",
        "counter",
        "Seconds that the choice of the kept examples took, including attacks.",
        of_state("pruning_seconds"),
    ),
    Metric(
        "sparring_allocated_examples_total",
        "counter",
        "Examples of consumed shards by the allocator's class.",
        by_reason("allocated"),
        ("class",),
    ),
    Metric(
        "sparring_allocator_robust_share",
        "gauge",
        "F_R of the allocator: the share of a ticket's examples that is classified as robust.",
        of_state("robust_share"),
    ),
    Metric(
        "sparring_allocator_theoretical_speedup",
        "gauge",
        "Speed-up by equation 7 of Hua et al. for the allocated examples; a training step counts as one attack step.",
        of_state("theoretical_speedup"),
    ),
    Metric(
        "sparring_allocator_wallclock_speedup",
        "gauge",
        "Speed-up in seconds of work: (full attacks + steps) / (actual attacks + steps).",
        of_state("wallclock_speedup"),
    ),
    Metric(
        "sparring_attack_seconds_total",
        "counter",
        "Seconds of work that the attacks on consumed shards took.",
        of_state("attack_seconds"),
    ),
    Metric(
        "sparring_full_attack_seconds_total",
        "counter",
        "Seconds that full attacks on these shards would have taken, at the measured seconds per gradient.",
        of_state("full_attack_seconds"),
    ),
    Metric(
        "sparring_rollbacks_total",
        "counter",
        "Rollbacks to the last checkpoint because of non-finite values.",
        of_state("rollbacks"),
    ),
    Metric(
        "sparring_fresh_minus_stale_loss",
        "gauge",
        "Mean cross-entropy under a fresh attack minus that under the stale attack on the same shard. Above 0, "
        "staleness weakens the attack.",
        of_state("fresh_minus_stale_loss"),
    ),
    Metric(
        "sparring_staleness_guard_level",
        "gauge",
        "Number of remedies against staleness that the guard has switched on.",
        of_state("staleness_level"),
    ),
    Metric(
        "sparring_staleness_guard_decisions_total",
        "counter",
        "How often the staleness guard has switched a remedy on (tightened) or off (relaxed).",
        by_reason("staleness_decisions", "tightened", "relaxed"),
        ("decision",),
    ),
    Metric(
        "sparring_overfittings_total",
        "counter",
        "Rollbacks to good weights because robust accuracy on a training batch had fallen too far.",
        of_state("overfittings"),
    ),
    Metric(
        "sparring_guard_accuracy",
        "gauge",
        "Last accuracy under PGD-5 on a training batch, measured by the overfitting guard; absent until measured.",
        of_state("guard_accuracy"),
    ),
    Metric(
        "sparring_skipped_steps_total",
        "counter",
        "Steps without an update, because the scaled fp16 gradients overflowed.",
        of_state("skipped_steps"),
    ),
    Metric(
        "sparring_refresh_steps_total",
        "counter",
        "Fresh attack steps that the trainer added to consumed shards.",
        of_state("refresh_steps"),
    ),
    Metric(
        "sparring_snapshot_publications_total",
        "counter",
        "Published snapshots of the weights.",
        of_state("publications"),
    ),
    Metric(
        "sparring_snapshot_publish_seconds_total",
        "counter",
        "Seconds that the publication of snapshots took.",
        of_state("publish_seconds"),
    ),
    Metric(
        "sparring_snapshot_publish_bytes_total",
        "counter",
        "Bytes of the published snapshots.",
        of_state("publish_bytes"),
    ),
    Metric(
        "sparring_snapshot_version", "gauge", "Version (step) of the latest published snapshot.", of_state("version")
    ),
    Metric(
        "sparring_checkpoint_timestamp_seconds",
        "gauge",
        "When the last checkpoint was written, Unix time in seconds; absent before the first.",
        of_state("checkpointed"),
    ),
    Metric("sparring_fence", "gauge", "The run's fence; it grows with every start or resume.", of_state("fence")),
    Metric(
        "sparring_clean_accuracy",
        "gauge",
        "Accuracy on held-out examples, share in [0, 1]; absent until measured.",
        of_state("clean_accuracy"),
    ),
    Metric(
        "sparring_robust_accuracy",
        "gauge",
        "Accuracy on attacked held-out examples, share in [0, 1]; absent until measured.",
        of_state("robust_accuracy"),
    ),
    Metric(
        "sparring_heldout_examples",
        "gauge",
        "Number of held-out examples on which the two accuracies are measured.",
        of_state("heldout_samples"),
    ),
    Metric(
        "sparring_rolling_robust_accuracy",
        "gauge",
        "Accuracy under AutoAttack on held-out examples of the last version that was judged (evaluation.rolling), "
        "share in [0, 1]; absent until one is.",
        of_state("rolling_accuracy"),
    ),
    Metric(
        "sparring_rolling_robust_accuracy_bound",
        "gauge",
        "Ends of its 95 % interval (Wilson): low, high.",
        _rolling_bounds,
        ("end",),
    ),
    Metric(
        "sparring_rolling_clean_accuracy",
        "gauge",
        "Accuracy on the same examples without an attack, share in [0, 1].",
        of_state("rolling_clean_accuracy"),
    ),
    Metric(
        "sparring_rolling_best_robust_accuracy",
        "gauge",
        "The highest of these accuracies under AutoAttack: that of the best checkpoint.",
        of_state("rolling_best"),
    ),
    Metric(
        "sparring_rolling_examples",
        "gauge",
        "Number of held-out examples of the last version that was judged.",
        of_state("rolling_samples"),
    ),
    Metric(
        "sparring_rolling_judged_examples",
        "gauge",
        "Held-out examples of the version that is judged now whose verdicts are known.",
        of_state("rolling_judged"),
    ),
    Metric(
        "sparring_rolling_version",
        "gauge",
        "Version (step) of the last weights that were judged.",
        of_state("rolling_version"),
    ),
    Metric(
        "sparring_train_robust_accuracy",
        "gauge",
        "Accuracy on the attacked training examples, share in [0, 1].",
        of_state("train_robust_accuracy"),
    ),
    Metric(
        "sparring_fresh_minus_stale_accuracy",
        "gauge",
        "Robust accuracy under a fresh attack minus that under the stale attack on the same shard, difference of "
        "shares. Below 0, staleness weakens the attack.",
        of_state("fresh_minus_stale"),
    ),
    Metric("sparring_loss", "gauge", "Training loss, in nats.", of_state("loss")),
    Metric(
        "sparring_epsilon",
        "gauge",
        "Current radius of the attack, in pixel intensity of [0, 1].",
        of_state("epsilon"),
    ),
    Metric("sparring_learning_rate", "gauge", "Current learning rate.", of_state("learning_rate")),
    Metric(
        "sparring_workers_wanted",
        "gauge",
        "Worker target: the number of workers that the run should have; 0 for an engine without workers.",
        of_state("workers_wanted"),
    ),
    Metric(
        "sparring_worker_info",
        "gauge",
        "Always 1; the labels say where the worker runs.",
        _worker_info,
        ("worker", "node", "pid"),
    ),
    Metric(
        "sparring_worker_last_heartbeat_timestamp_seconds",
        "gauge",
        "When the worker last reported its state, Unix time in seconds.",
        of_workers("time"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_shards_total",
        "counter",
        "Shards that the worker attacked.",
        of_workers("shards"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_abandoned_total",
        "counter",
        "Shards that the worker abandoned before they were finished.",
        of_workers("abandoned"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_gradient_evaluations_total",
        "counter",
        "Input gradients that the worker evaluated, counted per example.",
        of_workers("gradients"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_busy_seconds_total",
        "counter",
        "Seconds that the worker spent attacking and sending shards.",
        of_workers("busy_seconds"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_wait_seconds_total",
        "counter",
        "Seconds that the worker waited, by reason.",
        _worker_waits,
        ("worker", "reason"),
    ),
    Metric(
        "sparring_worker_judge_seconds_total",
        "counter",
        "Seconds that the worker judged held-out examples, mostly while it had no ticket.",
        of_workers("judge_seconds"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_attack_seconds",
        "gauge",
        "Seconds that the worker needs to attack one shard.",
        of_workers("attack_seconds"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_snapshot_version",
        "gauge",
        "Version of the weights that the worker attacks with.",
        of_workers("version"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_swaps_total",
        "counter",
        "How often the worker loaded newer weights between two attack steps.",
        of_workers("swaps"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_allocated_examples_total",
        "counter",
        "Examples by the allocator's class and by the worker that attacked them.",
        _worker_classes,
        ("worker", "class"),
    ),
    Metric(
        "sparring_worker_gpu_memory_bytes",
        "gauge",
        "Memory in use on the worker's GPU, by any process, in bytes; absent without an NVIDIA GPU.",
        of_workers("gpu_memory_bytes"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_gpu_memory_limit_bytes",
        "gauge",
        "Total memory of the worker's GPU, in bytes; absent without an NVIDIA GPU.",
        of_workers("gpu_memory_limit_bytes"),
        ("worker",),
    ),
    Metric(
        "sparring_worker_gpu_utilisation_ratio",
        "gauge",
        "Recent utilisation of the worker's GPU, by any process, share in [0, 1]; absent without an NVIDIA GPU.",
        of_workers("gpu_utilisation"),
        ("worker",),
    ),
    *(
        Metric(f"sparring_evaluation_{name}", kind, text, of_evaluation(field))
        for name, kind, text, field in EVALUATION
    ),
)
