"""Ranks that share their steps make those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from sparring.config import Config
from sparring.engines.batch_norm import Synchronised, synchronise
from sparring.engines.ranks import RankLost, Ranks, joined, lost_ranks_named, wait_for_all
from sparring.errors import NonFinite, SparringError
from sparring.objectives import Batch
from sparring.queue.messages import Key
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from tests.support.ranks import beside
from tests.support.runs import small

RANKS = 2
STEPS = ((40, 24), (64, 64), (50, 0), (30, 34))  # examples of each rank; one without any takes part all the same
METHODS: tuple[dict[str, Any], ...] = (
    {"train": {"gradient_clip": 0.5}, "model": {"name": "mnist-16-32-100"}},
    {"objective": {"name": "trades", "awp_gamma": 0.01}, "optimizer": {"name": "sgd", "lr": 0.1}},
    {"objective": {"name": "mart"}, "allocator": {"name": "bullettrain"}},
    {"objective": {"name": "tests.support.helped:Helped"}},
    {
        "objective": {"name": "trades", "awp_gamma": 0.01},
        "model": {"name": "tests.support.normed:make"},
        "trainer": {"batch_norm": "synchronised"},
        "optimizer": {"name": "sgd", "lr": 0.1},
    },
)


class Doubles:
    """A training set whose images are float64."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        x, y = self._dataset.batch(indices, epoch)
        return x.double(), y


def learner_of(config: Config) -> Learner:
    """In float64."""
    experiment = build_experiment(config)
    experiment.model.double()
    if experiment.helper is not None:
        experiment.helper.network.double()
    made: Any = Learner(experiment, torch.device("cpu"))
    made.dataset = Doubles(made.dataset)
    learner: Learner = made
    return learner


def examples(step: int) -> Batch:
    """All examples of a step, weighted; some were not attacked."""
    random, count = torch.Generator().manual_seed(step), sum(STEPS[step])
    x = torch.rand(count, 1, 8, 8, generator=random, dtype=torch.float64)
    attacked = (x + 0.1 * torch.randn(x.shape, generator=random, dtype=torch.float64)).clamp(0, 1)
    attacked[::5] = x[::5]
    weights = torch.rand(count, generator=random, dtype=torch.float64)
    return Batch(x, attacked, torch.randint(10, (count,), generator=random), weights / weights.mean())


def part_of_step(step: int, rank: int) -> Batch | None:
    whole, sizes = examples(step), STEPS[step]
    if not sizes[rank]:
        return None
    parts = [tensor.split(sizes)[rank] for tensor in (whole.x, whole.x_adv, whole.labels, whole.weights)]  # type: ignore[union-attr]
    return Batch(*parts)


def weights_of(learner: Learner) -> Tensor:
    buffers = [buffer.double().reshape(-1) for buffer in learner.trained.buffers()]
    weights = torch.nn.utils.parameters_to_vector(learner.trained.parameters()).detach()
    return torch.cat([weights, *buffers])


def together(config: Config, rank: int, meeting: Path) -> tuple[Tensor, float]:
    """Make the steps as one of two ranks; the last one is not finite on rank 1. The weights before it, and F_R."""
    learner, store = learner_of(config), FileStore(str(meeting), RANKS)
    if rank == 1:  # it begins as rank 0 does all the same
        torch.nn.init.zeros_(next(learner.model.parameters()))
        learner.robust_share = 0.5
    wait_for_all(store, rank, RANKS, 60)
    with joined(learner, rank, RANKS, store, timeout_s=60):
        if config.trainer.batch_norm == "synchronised":
            synchronise(learner.trained)
        learner.peers = ranks = Ranks[str](learner, rank)
        assert ranks.begin("told" if rank == 0 else None) == "told"
        for step, sizes in enumerate(STEPS):
            learner.learn(ranks.taking(part_of_step(step, rank), sum(sizes), Key(0, 0, 0)), epoch=0)
        made = weights_of(learner), learner.robust_share
        broken = ranks.taking(part_of_step(0, rank), sum(STEPS[0]), Key(0, 0, 0))
        broken.x_adv[:] = broken.x_adv if rank == 0 else torch.nan
        with pytest.raises(NonFinite):
            learner.learn(broken, epoch=0)
    return made


def rank_1(folder: Path) -> None:
    for number, method in enumerate(METHODS):
        weights, _ = together(small(folder, engine="sync", **method), 1, folder / f"meeting-{number}")
        torch.save(weights, folder / f"weights-{number}")


def test_their_weights_are_those_of_one_process_whatever_the_method(tmp_path: Path) -> None:
    with beside(rank_1, tmp_path):
        made = [
            together(small(tmp_path, engine="sync", **method), 0, tmp_path / f"meeting-{number}")
            for number, method in enumerate(METHODS)
        ]
    for number, (method, (weights, robust_share)) in enumerate(zip(METHODS, made, strict=True)):
        alone = learner_of(small(tmp_path, engine="sync", **method))
        for step in range(len(STEPS)):
            alone.learn(examples(step), epoch=0)
        assert float((weights - weights_of(alone)).abs().max()) < 1e-9, method
        assert robust_share == alone.robust_share
        assert torch.equal(weights, torch.load(tmp_path / f"weights-{number}")), "all ranks have the same"


def test_what_all_sum_up_is_a_mean_over_examples(tmp_path: Path) -> None:
    learner, store = learner_of(small(tmp_path, engine="sync")), FileStore(str(tmp_path / "meeting"), 1)
    with joined(learner, 0, 1, store, timeout_s=5):
        ranks = Ranks[None](learner, 0)
        assert ranks.totals(torch.tensor(0.5), torch.tensor([True, False, True, True])) == (0.5, 3, 4)


def test_a_rank_that_does_not_come_or_is_gone_is_named(tmp_path: Path) -> None:
    store, settings = FileStore(str(tmp_path / "meeting"), 2), small(tmp_path).trainer
    with pytest.raises(SparringError, match=r"not all of trainer\.count = 2 .* workers\.start_timeout_s = 0\.1"):
        wait_for_all(store, 0, 2, 0.1)
    said = r"trainer\.wait_timeout_s = 300 s \(\[gloo\] Connection closed"
    with pytest.raises(RankLost, match=said), lost_ranks_named(settings):
        raise RuntimeError("[gloo] Connection closed by peer")
    with pytest.raises(RuntimeError, match="something else"), lost_ranks_named(settings):
        raise RuntimeError("something else")


def test_a_rank_without_examples_leaves_nothing_behind_in_its_process(tmp_path: Path) -> None:
    learner = learner_of(small(tmp_path, engine="sync"))
    with joined(learner, 0, 1, FileStore(str(tmp_path / "meeting"), 1), 10):
        Ranks(learner, 0).taking(None, 4, Key(0, 0, 0))
        assert not Synchronised.counts
    assert Synchronised.counts
