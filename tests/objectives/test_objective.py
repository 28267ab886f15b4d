"""What every objective shares: which examples are passed, how they are counted, and what a subclass has to bring."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import UsageError
from sparring.objectives import Batch, Objective, pgd_at
from sparring.objectives.objective import logits_of_attacked
from tests.support.passes import ALL, NONE, SOME, batch_where, network


class Smoothed(Objective):
    """One of the user's own."""

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        logits = model(batch.x_adv)
        return pgd_at(logits, batch.labels, label_smoothing=0.1, weights=batch.weights), logits


def test_an_objective_of_ones_own_is_a_loss_and_nothing_more() -> None:
    batch, model = batch_where(SOME), network()
    loss, correct = Smoothed()(model, batch)
    logits = network()(batch.x_adv)
    assert loss.requires_grad and torch.equal(correct, logits.argmax(1) == batch.labels)
    assert Smoothed().helper((1, 8, 8), 10) is None
    assert (Smoothed().attack_loss, Smoothed().attack_start) == (None, "uniform")


def test_one_without_a_loss_is_an_error_that_names_it() -> None:
    class Empty(Objective):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no loss"):
        Empty()(network(), batch_where(SOME))


def test_logits_of_other_examples_are_refused() -> None:
    class Both(Objective):
        def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None) -> tuple[Tensor, Tensor]:
            logits = model(torch.cat([batch.x, batch.x_adv]))
            return logits.logsumexp(1).mean(), logits

    with pytest.raises(UsageError, match=r"Both\.loss returns 12 rows of logits for 6 examples"):
        Both()(network(), batch_where(SOME))


@pytest.mark.parametrize(("attacked", "passed"), [(ALL, [6]), (SOME, [3]), (NONE, [])])
def test_the_attacked_alone_are_passed_and_the_others_keep_their_clean_logits(
    attacked: list[bool], passed: list[int]
) -> None:
    batch, model = batch_where(attacked), network()
    clean = network()(batch.x)
    logits = logits_of_attacked(model, clean, batch)
    assert [len(seen) for seen in model.seen] == passed
    torch.testing.assert_close(logits, network()(batch.x_adv))
    assert torch.equal(logits[~torch.tensor(attacked)], clean[~torch.tensor(attacked)])
