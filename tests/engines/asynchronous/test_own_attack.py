"""The trainer's own attack gives the shard that a worker would give with the same weights, one step at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.engines.asynchronous.own_attack import OwnAttack, attack_a_little
from sparring.queue.messages import Key, Ticket
from sparring.queue.transport import Transport
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.learner import Learner
from tests.support.runs import small
from tests.support.shards import shard_of


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return build_experiment(small(tmp_path, attack={"steps": 3, "warmup_epochs": 0}))


def issue(experiment: Experiment, transport: Transport) -> None:
    indices, fingerprint = experiment.plan.indices(0, 0), experiment.training.fingerprint
    transport.issue([Ticket(Key(0, 0, 0), transport.fence, 0, indices, fingerprint)])


def test_without_a_ticket_there_is_nothing_to_do(experiment: Experiment, transport: Transport) -> None:
    own = OwnAttack(experiment, Learner(experiment, torch.device("cpu")), transport)
    assert not own.begin() and own.lease is None and own.advance() is None


def test_one_step_at_a_time_to_the_shard_of_a_worker(experiment: Experiment, transport: Transport) -> None:
    learner = Learner(experiment, torch.device("cpu"))
    own = OwnAttack(experiment, learner, transport)
    issue(experiment, transport)
    assert own.begin() and own.lease is not None
    steps = [own.advance() for _ in range(3)]
    assert steps[:2] == [None, None] and steps[2] is not None and own.lease is None
    expected = shard_of(experiment, Key(0, 0, 0), learner.controls(), 0, experiment.model, transport.fence)
    assert torch.equal(steps[2].delta, expected.delta)
    assert steps[2].worker == "trainer"


def test_a_ticket_that_is_dropped_gives_no_shard(experiment: Experiment, transport: Transport) -> None:
    own = OwnAttack(experiment, Learner(experiment, torch.device("cpu")), transport)
    issue(experiment, transport)
    assert own.begin()
    own.drop()
    assert own.advance() is None and own.lease is None


def test_an_attack_that_raises_costs_its_ticket_an_attempt_as_a_workers_does(
    experiment: Experiment, transport: Transport
) -> None:
    learner = Learner(experiment, torch.device("cpu"))
    own = OwnAttack(experiment, learner, transport)
    issue(experiment, transport)

    def broken(module: nn.Module, images: tuple[Tensor]) -> None:
        raise ValueError("poison")

    hook = learner.model.register_forward_pre_hook(broken)
    busy, shard = attack_a_little(own, True)
    while busy and own.ready:
        busy, shard = attack_a_little(own, True)
    hook.remove()
    assert shard is None and own.lease is None
    (back,) = transport.expired(transport.fence)
    assert (back.reason, back.worker, back.detail) == ("failed", "trainer", "ValueError: poison")
