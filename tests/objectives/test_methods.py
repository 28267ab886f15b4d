"""The passes of PGD-AT, TRADES and MART against sequences made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sparring.attacks import DIVERGENCE
from sparring.objectives import Batch, Objective, mart, pgd_at, trades
from sparring.objectives.methods import MART, PGDAT, TRADES, Passes
from tests.support.losses import BETA, Array, cross_entropy, expected_kl, expected_mart, expected_trades
from tests.support.passes import ALL, NONE, ONE, SOME, Counting, batch_where, network

Expected = Callable[..., float]

METHODS: dict[str, Callable[[Passes], Objective]] = {
    "pgd-at": lambda passes: PGDAT(),
    "trades": lambda passes: TRADES(BETA, passes),
    "trades with awp": lambda passes: TRADES(BETA, passes, attacked_first=True),
    "mart": lambda passes: MART(BETA, passes),
}


def pass_inputs(sequence: str, batch: Batch, attacked: Sequence[bool]) -> list[Tensor]:
    passes = {"x": batch.x, "adv": batch.x_adv, "attacked": batch.x_adv[torch.tensor(attacked)]}
    return [passes[word] for word in sequence.split()]


@pytest.mark.parametrize(
    ("name", "passes", "attacked", "sequence"),
    [
        ("pgd-at", "reference", SOME, "adv"),
        ("pgd-at", "single_pass", SOME, "adv"),
        ("trades", "reference", SOME, "x adv x"),
        ("trades", "reference", NONE, "x adv x"),
        ("trades", "single_pass", ALL, "x adv"),
        ("trades", "single_pass", SOME, "x attacked"),
        ("trades", "single_pass", NONE, "x"),
        ("trades with awp", "reference", SOME, "adv x x"),
        ("trades with awp", "single_pass", SOME, "x attacked"),
        ("mart", "reference", SOME, "x adv"),
        ("mart", "single_pass", SOME, "x attacked"),
        ("mart", "single_pass", NONE, "x"),
    ],
)
def test_batch_norm_sees_the_passes_of_the_method_in_its_order(
    name: str, passes: Passes, attacked: list[bool], sequence: str
) -> None:
    batch = batch_where(attacked)
    model, by_hand = network(batch_norm=True), network(batch_norm=True)
    METHODS[name](passes).loss(model, batch, None)
    expected = pass_inputs(sequence, batch, attacked)
    for one in expected:
        by_hand(one)
    assert len(model.seen) == len(expected)
    assert all(torch.equal(seen, one) for seen, one in zip(model.seen, expected, strict=True))
    for name_of_buffer, buffer in by_hand.named_buffers():
        torch.testing.assert_close(model.get_buffer(name_of_buffer), buffer, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["trades", "mart"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_single_attacked_example_does_not_reach_batch_norm_alone(name: str, place: int) -> None:
    batch = batch_where([each == place for each in range(6)])
    model, by_hand = network(batch_norm=True), network(batch_norm=True)
    _, logits = METHODS[name]("single_pass").loss(model, batch, None)
    expected = by_hand(batch.x)
    expected[place] = by_hand(batch.x_adv[[place, place - 1]])[0]
    torch.testing.assert_close(logits, expected)
    assert [len(seen) for seen in model.seen] == [6, 2]


@pytest.mark.parametrize("name", ["trades", "mart"])
@pytest.mark.parametrize("attacked", [ALL, SOME, ONE, NONE], ids=["all", "some", "one", "none"])
def test_without_batch_norm_single_equals_reference_in_value_logits_and_gradient(
    name: str, attacked: list[bool]
) -> None:
    passes: tuple[Passes, ...] = ("reference", "single_pass")
    results = []
    for each in passes:
        model = network()
        loss, logits = METHODS[name](each).loss(model, batch_where(attacked), None)
        results.append((loss, logits, *torch.autograd.grad(loss, list(model.parameters()))))
    for reference, single in zip(*results, strict=True):
        torch.testing.assert_close(single, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("trades", expected_trades), ("mart", expected_mart)])
@pytest.mark.parametrize("passes", ["reference", "single_pass"])
def test_with_batch_norm_the_loss_is_that_of_the_logits_of_its_passes(
    name: str, expected: Expected, passes: Passes
) -> None:
    batch, by_hand = batch_where(SOME), network(batch_norm=True)
    clean = by_hand(batch.x).detach()
    adv = by_hand(batch.x_adv).detach()
    if passes == "single_pass":
        adv = clean.clone()
        adv[SOME] = by_hand(batch.x_adv[SOME]).detach()
    loss, logits = METHODS[name](passes).loss(network(batch_norm=True), batch, None)
    torch.testing.assert_close(logits, adv)
    assert loss.item() == pytest.approx(expected(batch.labels.numpy(), clean.numpy(), adv.numpy()), abs=1e-11)


def test_the_kl_target_of_trades_comes_from_the_third_pass_of_the_reference() -> None:
    class Drifting(Counting):
        """Each pass scales its logits by its number, as dropout would make passes differ."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * len(self.seen)

    batch = batch_where(ALL)
    torch.manual_seed(7)
    model = Drifting(batch_norm=False).double()
    clean, adv, again = (model(one).detach() for one in (batch.x, batch.x_adv, batch.x))
    model.seen.clear()
    loss, _ = TRADES(BETA, "reference").loss(model, batch)
    labels = batch.labels.numpy()
    divergence = expected_kl(labels, again.numpy(), adv.numpy()).mean()
    assert loss.item() == pytest.approx(cross_entropy(clean.numpy(), labels) + BETA * divergence, abs=1e-11)


def test_pgd_at_smooths_labels_and_returns_the_logits_it_used() -> None:
    batch = batch_where(SOME)
    loss, logits = PGDAT(label_smoothing=0.2).loss(network(), batch)
    torch.testing.assert_close(logits, network()(batch.x_adv).detach())
    torch.testing.assert_close(loss, pgd_at(logits, batch.labels, label_smoothing=0.2))
    assert loss.item() != pytest.approx(pgd_at(logits, batch.labels).item(), abs=1e-3)


def test_trades_is_passed_its_label_smoothing() -> None:
    batch = batch_where(SOME)
    loss, _ = TRADES(BETA, label_smoothing=0.2).loss(network(), batch)
    clean, adv = network()(batch.x).detach(), network()(batch.x_adv).detach()
    torch.testing.assert_close(loss, trades(clean, adv, batch.labels, BETA, label_smoothing=0.2))


@pytest.mark.parametrize("name", METHODS)
def test_each_example_counts_by_its_weight(name: str) -> None:
    """A loss whose weights are mean 1 is the mean of the examples' own losses, each times its weight."""
    weights = torch.tensor([0.0, 2.0, 0.5, 1.0, 1.5, 1.0], dtype=torch.float64)
    batch, objective = batch_where(SOME, weights), METHODS[name]("reference")
    alone: list[Array] = []
    for row in range(len(weights)):
        one = Batch(*(part[row : row + 1] for part in (batch.x, batch.x_adv, batch.labels)))
        alone.append(objective.loss(network(), one, None)[0].detach().numpy())
    loss, _ = objective.loss(network(), batch, None)
    assert loss.item() == pytest.approx(float(np.mean(np.array(alone) * weights.numpy())), abs=1e-11)


def test_an_objective_says_what_its_attack_maximises_and_where_it_begins() -> None:
    found = {name: (make("reference").attack_loss, make("reference").attack_start) for name, make in METHODS.items()}
    trades_attack = (DIVERGENCE, "gaussian")
    assert found.pop("trades with awp") == trades_attack
    assert found == {"pgd-at": (None, "uniform"), "trades": trades_attack, "mart": (None, "gaussian")}


def test_a_call_tells_which_attacked_examples_are_classified_correctly() -> None:
    batch = batch_where(SOME)
    loss, correct = MART(BETA)(network(), batch)
    logits = network()(batch.x_adv)
    torch.testing.assert_close(loss, mart(network()(batch.x), logits, batch.labels, BETA))
    assert torch.equal(correct, logits.argmax(1) == batch.labels) and 0 < int(correct.sum()) < 6
