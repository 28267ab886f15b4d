"""Judging a run that has ended, from its folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparring.config import flatten, load
from sparring.data import load as load_data
from sparring.errors import SparringError, UsageError
from sparring.evaluation.robustness import judge
from sparring.models import build
from sparring.runs import Run
from sparring.trainer import checkpoints

MAY_CHANGE = ("evaluation.", "data.root", "trainer.device", "trainer.threads")


def evaluate_run(
    run: Run,
    changes: dict[str, str],
    *,
    best: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate the last (or best) checkpoint of `run`; the result is also written to its evaluation.json.

    Raises:
        UsageError: a change touches more than how the model is judged, or there is no such checkpoint.
    """
    before, config = run.config(), load(run.config_file, changes)
    old, new = flatten(before), flatten(config)
    for name in old:
        if old[name] != new[name] and not name.startswith(MAY_CHANGE):
            raise UsageError(f"--{name} cannot change here: it is not about how the model is judged.")
    path = checkpoints.best(run.checkpoints) if best else checkpoints.latest(run.checkpoints)
    if path is None:
        wanted = "best (train.evaluate_every_epochs was 0?)" if best else "whole"
        raise SparringError(f"{run.path} has no {wanted} checkpoint; train or resume it first.")
    dataset = load_data(config.data, "test")
    model = build(config.model, dataset.shape, dataset.classes, config.train.seed)
    checkpoints.load_weights(path, model)
    if torch.cuda.is_available() and config.trainer.device != "cpu":
        model.to("cuda")
    judged = judge(model, dataset, config.attack, config.evaluation, config.train.seed, progress)
    result = {**judged.as_dict(), "checkpoint": path.name}
    run.write_json("evaluation.json", result)
    return result
