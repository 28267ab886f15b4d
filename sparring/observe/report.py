"""The summary of a run, and the table in which results are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sparring.observe.state import RunState, staleness_summary

SUMMARY_KEYS: dict[str, str] = {
    "engine": "engine of the run",
    "dataset": "training data",
    "method": "objective, attack and allocator that the model was trained with",
    "steps": "optimizer updates",
    "examples": "examples trained on",
    "seconds": "seconds of training, including those before a resume",
    "examples_per_second": "examples trained on per second, mean over the run",
    "clean_accuracy": "accuracy on clean examples, share in [0, 1]; null: not measured",
    "robust_accuracy": "accuracy on attacked examples, share in [0, 1]; null: not measured",
    "clean_interval": "95 % interval (Wilson) of clean_accuracy, two shares; null: not measured",
    "robust_interval": "95 % interval (Wilson) of robust_accuracy, two shares; null: not measured",
    "ema_clean_accuracy": "clean_accuracy of the weights' moving average on the same examples; null: there is none",
    "ema_robust_accuracy": "robust_accuracy of the weights' moving average on the same examples; null: there is none",
    "ema_clean_interval": "95 % interval (Wilson) of ema_clean_accuracy, two shares; null: there is none",
    "ema_robust_interval": "95 % interval (Wilson) of ema_robust_accuracy, two shares; null: there is none",
    "warnings": "what may make the accuracies wrong",
    "ema_warnings": "the same of the averaged weights; null: there are none",
    "attack": "attack of the robust accuracy; null: unknown",
    "samples": "number of examples on which the accuracies were measured",
    "drawn": "which examples these are; null: unknown",
    "rolling_best": "highest accuracy under AutoAttack on held-out examples (evaluation.rolling), share; null: "
    "not measured",
    "rolling_best_version": "the step whose weights that is of; the best checkpoint",
    "max_staleness": "bound on staleness, in steps",
    "staleness_mean": "mean staleness of consumed shards, in steps",
    "staleness_max": "highest staleness of a consumed shard, in steps",
    "drift_mean": "mean drift of consumed shards: path length of the weights since a shard's version, relative "
    "to their norm",
    "fresh_minus_stale": "robust accuracy under a fresh attack minus that under the stale attack, difference of "
    "shares, latest value; null: not measured",
    "staleness_level": "number of remedies that the staleness guard has switched on",
    "staleness_decisions": "how often the staleness guard has switched a remedy on (tightened) or off (relaxed)",
    "worker_shards": "consumed shards that workers attacked",
    "trainer_shards": "consumed shards that the trainer attacked itself",
    "shards_dropped": "shards that were lost or discarded and whose tickets were issued again, all reasons",
    "shards_dropped_by_reason": "shards_dropped by reason",
    "shards_set_aside": "tickets set aside after too many failed attempts; a resume makes them",
    "examples_missing": "examples of these tickets: they were not trained on in their epoch",
    "gradients": "input gradients that the attacks on consumed shards and for pruning needed, counted per example",
    "gradients_per_example": "gradients per example trained on, mean",
    "kept": "training examples that pruning has kept; null: not pruned",
    "pruning_seconds": "seconds that the choice of the kept examples took, including attacks",
    "allocated": "examples by the allocator's class; empty without an allocator",
    "theoretical_speedup": "speed-up by equation 7 of Hua et al. for the allocated examples; a training step counts as "
    "one attack step; null without an allocator",
    "wallclock_speedup": "speed-up in seconds of work: (full attacks + steps) / (actual attacks + steps), at the "
    "measured seconds per gradient; null without an allocator",
    "refresh_steps": "fresh attack steps that the trainer added to consumed shards",
    "rollbacks": "rollbacks to the last checkpoint because of non-finite values",
    "overfittings": "rollbacks to good weights because robust accuracy on a training batch had fallen too far",
    "skipped_steps": "steps without an update, because the scaled fp16 gradients overflowed",
    "attack_zero_gradients": "examples trained on whose attack met a gradient of exactly zero",
    "attack_non_finite_gradients": "examples trained on whose attack met gradients with entries that are not finite, "
    "taken as 0",
    "trainer_restarts": "how often a trainer that died was restarted",
}


FIGURES = ("clean_accuracy", "robust_accuracy", "clean_interval", "robust_interval", "warnings")
EMA_FIGURES = tuple(f"ema_{name}" for name in FIGURES)
MEASURED = (*FIGURES, *EMA_FIGURES, "attack", "samples", "drawn")  # what a summary takes from an evaluation


def summary(state: RunState, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `SUMMARY_KEYS`, in that order. `extra`, such as a final evaluation, takes precedence.

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
        "drawn": None,
        "clean_interval": None,
        "robust_interval": None,
        **dict.fromkeys(EMA_FIGURES),
        "warnings": [],
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
        "examples_missing": state.missing,
    }


def table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """A table with one line per row; columns in the order in which the rows first name them.

    Floats in columns whose name ends in `accuracy` are shares and are shown as percentages. None is shown as –.
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
    """A share in [0, 1] as a percentage; – for None."""
    return "–" if share is None else f"{100 * share:.1f} %"
