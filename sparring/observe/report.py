"""What a run came to: the figures of its summary, and the table that results are shown in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sparring.observe.state import RunState, staleness_summary

SUMMARY_KEYS: dict[str, str] = {
    "engine": "engine that the run was made with",
    "dataset": "what was trained on",
    "steps": "optimizer updates made",
    "examples": "examples trained on",
    "seconds": "seconds that training took, resumes included",
    "examples_per_second": "examples trained on a second, mean over the run",
    "clean_accuracy": "accuracy on unperturbed examples, share in [0, 1]; null: not measured",
    "robust_accuracy": "accuracy on attacked examples, share in [0, 1]; null: not measured",
    "clean_interval": "95 % interval (Wilson) of clean_accuracy, two shares; null: not judged",
    "robust_interval": "95 % interval (Wilson) of robust_accuracy, two shares; null: not judged",
    "ema_clean_accuracy": "clean_accuracy of the weights' moving average on the same examples; null: there is none",
    "ema_robust_accuracy": "robust_accuracy of the weights' moving average on the same examples; null: there is none",
    "ema_clean_interval": "95 % interval (Wilson) of ema_clean_accuracy, two shares; null: there is none",
    "ema_robust_interval": "95 % interval (Wilson) of ema_robust_accuracy, two shares; null: there is none",
    "attack": "attack that robust accuracy was measured with; null: not told",
    "samples": "examples that the two accuracies were measured on",
    "max_staleness": "bound on staleness, in steps",
    "staleness_mean": "mean staleness of consumed shards, in steps",
    "staleness_max": "highest staleness of a consumed shard, in steps",
    "drift_mean": "mean drift of consumed shards: path length of the weights since a shard's version, relative "
    "to their norm",
    "fresh_minus_stale": "robust accuracy against a fresh attack less that against the stale one, difference "
    "of shares, latest reading; null: not measured",
    "staleness_level": "remedies that the staleness guard has switched on now",
    "staleness_decisions": "times that the staleness guard has switched a remedy on (tightened) or off (relaxed)",
    "worker_shards": "consumed shards that workers attacked",
    "trainer_shards": "consumed shards that the trainer attacked itself",
    "shards_dropped": "shards lost or thrown away whose tickets were issued again, sum over all reasons",
    "shards_dropped_by_reason": "the same by reason",
    "shards_set_aside": "tickets given up after too many lost attempts; an epoch lacks their examples",
    "gradients": "gradients by the input that the attacks on consumed shards and pruning's took, counted by example",
    "gradients_per_example": "the same for one example trained on, mean",
    "kept": "training examples that pruning has kept; null: not pruned",
    "pruning_seconds": "seconds that it took to decide which, attacks included",
    "allocated": "examples that the allocator took for outliers, boundary and robust ones; empty without one",
    "theoretical_speedup": "equation 7 of Hua et al. for what was allocated, a step counted as one attack step; "
    "null without an allocator",
    "wallclock_speedup": "seconds of work that full attacks and the steps would have taken over those that were taken, "
    "at the run's own seconds per gradient; null without an allocator",
    "refresh_steps": "fresh attack steps that the trainer added to consumed shards",
    "rollbacks": "times that loss or weights were no number and training went on from the last checkpoint",
    "overfittings": "times that robust accuracy on a training batch fell so far that training went back to good "
    "weights",
    "skipped_steps": "steps that left the weights as they were, since their scaled fp16 gradients overflowed",
    "trainer_restarts": "times that a dead trainer was started again",
}


def summary(state: RunState, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of `SUMMARY_KEYS`, in that order; `extra` (a final evaluation, say) takes precedence.

    Raises:
        ValueError: a key of `extra` is not one of `SUMMARY_KEYS`.
    """
    unknown = sorted(set(extra) - set(SUMMARY_KEYS))
    if unknown:
        raise ValueError(f"summary: {', '.join(unknown)} not in SUMMARY_KEYS; describe it there first")
    known = _of_state(state) | dict(extra)
    return {key: known[key] for key in SUMMARY_KEYS}


def _of_state(state: RunState) -> dict[str, Any]:
    mean, highest = staleness_summary(state.staleness)
    consumed = sum(state.staleness.values())
    same_name = {key: getattr(state, key) for key in SUMMARY_KEYS if hasattr(state, key)}
    return same_name | {
        "steps": state.step,
        "examples_per_second": state.examples / state.seconds if state.seconds else 0.0,
        "attack": None,
        "clean_interval": None,
        "robust_interval": None,
        **{f"ema_{name}": None for name in ("clean_accuracy", "robust_accuracy", "clean_interval", "robust_interval")},
        "gradients_per_example": state.gradients / state.examples if state.examples else 0.0,
        "allocated": dict(state.allocated),
        "staleness_decisions": dict(state.staleness_decisions),
        "samples": state.heldout_samples,
        "staleness_mean": mean,
        "staleness_max": highest,
        "drift_mean": state.drift_sum / consumed if consumed else 0.0,
        "shards_dropped": sum(state.dropped.values()),
        "shards_dropped_by_reason": dict(state.dropped),
        "shards_set_aside": state.set_aside,
    }


def table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Results, one row each; columns in the order in which the rows first name them.

    Floats in columns whose name ends in `accuracy` are shares and shown as percentages; None is shown as –.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    result = Table(title=Text(title), title_justify="left")
    for name in columns:
        numeric = any(isinstance(row.get(name), int | float) for row in rows)
        result.add_column(Text(name.replace("_", " ")), justify="right" if numeric else "left")
    for row in rows:
        result.add_row(*(Text(_cell(name, row.get(name))) for name in columns))
    return result


def _cell(column: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return percent(value) if column.endswith("accuracy") else f"{value:.4g}"
    return str(value)


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage; – where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"
