"""Runs with methods of the examples, and what proves that one was used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.commands.train import Result, train
from sparring.config import config_of
from sparring.queue.messages import Controls
from sparring.workers.attackers import produce_all
from tests.support.digits import InDouble, context_of, half_trained, recipe, task, training_digits
from tests.support.examples import ROOT
from tests.support.runs import Place, small, weights_of

FEW: dict[str, Any] = {
    "train": {"max_steps": 4},
    "evaluation": {"samples": 20},
    "staleness": {"max_staleness": 0, "depth": 0, "publish_every": 1},
    "queue": {"wire": "exact"},
}


def example(name: str) -> str:
    """`file.py:object` of the examples, whatever folder the tests run in."""
    return f"{ROOT}/examples/{name}"


def trained(root: Path, engine: str, place: Place = lambda config: config, **groups: Any) -> Result:
    """A run of four steps; one by workers has bound 0 and the exact wire, so that it must equal the synchronous one."""
    merged = {group: {**FEW.get(group, {}), **values} for group, values in groups.items()}
    result = train(place(small(root, engine=engine, **{**FEW, **merged})))
    assert result.phase == "finished" and result.summary["steps"] == 4
    recorded = config_of(result.run)
    for group, values in groups.items():
        assert values.items() <= getattr(recorded, group).model_dump(mode="json").items()
    return result


def assert_workers_use_it(root: Path, shared_ray: Place, **groups: Any) -> None:
    """Workers that attack with the method give the weights of the synchronous loop with it, bit for bit."""
    sync, by_workers = trained(root, "sync", **groups), trained(root, "ray", shared_ray, **groups)
    assert by_workers.summary["worker_shards"] == 4
    assert weights_of(by_workers) == weights_of(sync)


def perturbations(attack: Attack, slots: int, allocator: str) -> Tensor:
    """float32 [N, C, H, W]: those of two tickets; in so many slots, or one after the other (0)."""
    digits = training_digits()
    model = InDouble(half_trained(digits))
    context = replace(context_of(recipe(allocator={"name": allocator}), model, digits), attack=attack)
    tasks = [task(number, tuple(range(30 * number, 30 * number + 30))) for number in range(2)]
    shards = produce_all(tasks, context, Controls(attack.epsilon, robust_share=0.5), 0, slots)
    return torch.cat([shard.delta for shard in shards])
