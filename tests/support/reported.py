"""Runs for reports that nobody has trained: a folder with the records of one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sparring.config import from_tree, new_run
from sparring.observe.state import RunState
from sparring.runs import Run, append

SUMMARY: dict[str, Any] = {
    "clean_accuracy": 0.9,
    "robust_accuracy": 0.5,
    "clean_interval": [0.82, 0.95],
    "robust_interval": [0.4, 0.6],
    "attack": "PGD-5, 1 restart, step 0.01, linf 0.2",
    "samples": 100,
    "drawn": "all",
    "warnings": ["the weights are young"],
    "gradients_per_example": 3.0,
}
EVALUATION: dict[str, Any] = {
    **SUMMARY,
    "checkpoint": "step-000000040",
    "weights": "plain",
    "epsilon": 0.2,
    "by_class": [
        {"label": label, "samples": 50, "clean_accuracy": 0.9, "robust_accuracy": share, "robust_interval": [0.2, 0.8]}
        for label, share in ((0, 0.4), (1, 0.6))
    ],
}
CURVES: dict[str, Any] = {
    "norm": "linf",
    "trained_epsilon": 0.2,
    "samples": 100,
    "drawn": "all",
    "by_epsilon": [
        {
            "epsilon": at,
            "steps": 5,
            "attack": "PGD-5",
            "robust_accuracy": share,
            "robust_interval": [share, share + 0.1],
        }
        for at, share in ((0.0, 0.9), (0.2, 0.5), (1.0, 0.0))
    ],
    "by_steps": [
        {"epsilon": 0.2, "steps": at, "attack": f"PGD-{at}", "robust_accuracy": 0.5, "robust_interval": [0.4, 0.6]}
        for at in (1, 10, 100)
    ],
    "black_box": None,
    "warnings": [],
    "masking": {"verdict": "no sign of masking", "note": "Also use AutoAttack.", "evidence": []},
}


def state_at(step: int) -> RunState:
    """The state of a run with workers after so many of 40 steps."""
    state = RunState(phase="training", engine="ray", dataset="digits", method="pgd-at", step=step, total_steps=40)
    state.examples, state.seconds, state.max_staleness = 64 * step, 0.5 * step, 4
    state.examples_per_second, state.loss, state.train_robust_accuracy = 128.0, 2.0 / step, step / 50
    state.staleness = Counter({0: step // 2, 1: step - step // 2})
    state.wait_seconds, state.step_seconds = {"shards": 0.1 * step, "snapshot": 0.01 * step}, 0.2 * step
    state.attack_seconds, state.worker_shards, state.workers_wanted = 0.8 * step, step, 2
    state.allocated = Counter({"robust": 10 * step, "boundary": 50 * step, "outlier": 4 * step})
    state.fresh_minus_stale = -0.01 if step > 20 else 0.02
    return state


def recorded(root: Path, name: str = "made", **groups: Any) -> Run:
    """A finished run with every record, but without weights; `groups` change settings by group."""
    run = new_run(from_tree({"run": {"root": str(root), "name": name}, **groups}))
    for step in range(5, 41, 5):
        append(run.metrics, json.dumps(state_at(step).as_dict()))
        append(run.history, json.dumps({"step": step, "workers": [f"worker-{step % 2}"]}))
    state = state_at(40)
    state.phase = "finished"
    run.write_json("state.json", state.as_dict())
    run.write_json("summary.json", SUMMARY)
    run.write_json("evaluation.json", EVALUATION)
    run.write_json("curves.json", CURVES)
    run.write_json("data.json", {"shape": [1, 8, 8], "classes": 10})
    return run
