"""Robust accuracy never flatters: an example counts only if it survives every attempt, and the count is reported."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.attacks import PGD, Attack, Start
from sparring.config import DataSettings, EvaluationSettings, ModelSettings
from sparring.data import ArrayDataset, Dataset, Sample, load
from sparring.data.sampling import Draw
from sparring.evaluation import Evaluation, attack_for, evaluate
from sparring.evaluation.robustness import describe, interval
from sparring.models import build

pytestmark = pytest.mark.xdist_group("robustness")  # one process trains the network


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataSettings(), "test")


@pytest.fixture(scope="module")
def model(digits: Dataset) -> nn.Module:
    """A plainly trained network: right on clean images, partly wrong under attack."""
    made = build(ModelSettings(), digits.shape, digits.classes, seed=0)
    training = load(DataSettings(), "train")
    x, y = training.images(torch.arange(len(training))).float() / 255, training.labels
    optimizer = torch.optim.Adam(made.parameters(), lr=0.003)
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(made(x), y))
        optimizer.step()
    return made


def attack(epsilon: float = 0.15, steps: int = 2, restarts: int = 1, start: Start = "uniform") -> Attack:
    return PGD(epsilon, steps=steps, step_size=epsilon / 2, start=start, restarts=restarts)


class Constant(nn.Module):
    """Says `answer` whatever it sees."""

    def __init__(self, classes: int, answer: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, classes)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(nn.functional.one_hot(torch.tensor(answer), classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: float32 [N, 1, 8, 8]."""
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.3])
def test_robust_accuracy_is_at_most_clean_accuracy(
    model: nn.Module, digits: Dataset, norm: str, epsilon: float
) -> None:
    evaluated = evaluate(
        model, Sample(digits, 100), attack_for(PGD(epsilon, norm=norm), EvaluationSettings(steps=3, restarts=2))
    )
    assert evaluated.robust_accuracy <= evaluated.clean_accuracy and evaluated.clean_accuracy > 0.8


def test_more_restarts_never_raise_robust_accuracy_and_here_lower_it(model: nn.Module, digits: Dataset) -> None:
    found = [evaluate(model, digits, attack(restarts=n)).robust_accuracy for n in range(1, 7)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0]


def test_an_example_that_one_restart_breaks_stays_broken(digits: Dataset) -> None:
    """The attack's gradient is 0, so that only its random starts decide; each example falls to about half of them."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Right (class 0) where the image has become brighter than mid-grey on average."""
            brighter = (x.flatten(1).mean(1) > 0.5).float() * self.scale + 0 * x.flatten(1).sum(1)
            return torch.stack([brighter - 0.25, 0.25 - brighter], 1)

    grey = torch.full((400, 1, 8, 8), 128, dtype=torch.uint8)
    dataset = ArrayDataset(grey, torch.zeros(400, dtype=torch.int64), 2, "grey")
    shares = [evaluate(Sum(), dataset, attack(0.2, restarts=n)).robust_accuracy for n in (1, 2, 3)]
    assert evaluate(Sum(), dataset, attack(0.2)).clean_accuracy == 1.0
    assert shares[0] > shares[1] > shares[2] > 0
    assert shares[1] / shares[0] == pytest.approx(shares[0], abs=0.12)


@pytest.mark.parametrize(
    ("samples", "batch_size", "count"), [(None, 500, 360), (100, 500, 100), (100, 33, 100), (5000, 64, 360), (1, 1, 1)]
)
def test_the_examples_are_counted(
    model: nn.Module, digits: Dataset, samples: int | None, batch_size: int, count: int
) -> None:
    reported: list[tuple[int, int]] = []
    evaluated = evaluate(
        model,
        digits,
        attack(),
        samples=samples,
        batch_size=batch_size,
        progress=lambda done, total: reported.append((done, total)),
    )
    assert evaluated.samples == count
    assert reported[-1] == (count, count) and [done for done, _ in reported] == sorted({done for done, _ in reported})
    with torch.no_grad():
        x = digits.images(torch.arange(len(digits))).float() / 255
        correct = model(x).argmax(1) == digits.labels
    assert evaluated.clean_accuracy == float(correct[Sample(digits, samples).indices].double().mean())


@pytest.mark.parametrize(("draw", "share"), [("stratified", 0.25), ("first", 1.0)])
def test_of_sorted_data_a_sample_has_every_class_or_says_so(draw: Draw, share: float) -> None:
    labels = torch.arange(4).repeat_interleave(30)
    noise = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8)
    found = evaluate(Constant(4, 0), ArrayDataset(noise, labels, 4, "noise"), attack(0.1), samples=20, draw=draw)
    assert found.clean_accuracy == found.robust_accuracy == share
    missing = "The 20 examples hold 1 of 4 classes: the figure says nothing of the others."
    assert [text for text in found.warnings if "classes" in text] == ([missing] if draw == "first" else [])
    rules = {"first": "the first of 120", "stratified": "drawn from 120 with seed 0, each class in its share"}
    assert found.drawn == rules[draw]


@pytest.mark.parametrize("answer", [0, 7])
def test_a_constant_model_is_wholly_robust_on_its_class(digits: Dataset, answer: int) -> None:
    share = float((digits.labels == answer).float().mean())
    evaluated = evaluate(Constant(10, answer), digits, attack(0.5, steps=4, restarts=3))
    assert evaluated.clean_accuracy == evaluated.robust_accuracy == pytest.approx(share)


def test_judging_is_repeatable_and_leaves_model_and_random_state_as_they_were(
    model: nn.Module, digits: Dataset
) -> None:
    model.train()
    torch.manual_seed(5)
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in model.parameters()]

    def evaluated(seed: int) -> Evaluation:
        return evaluate(model, digits, attack(), seed=seed)

    one, two = evaluated(1), evaluated(1)
    assert (one.clean_accuracy, one.robust_accuracy) == (two.clean_accuracy, two.robust_accuracy)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


def test_the_evaluating_attack_takes_the_ball_of_training_and_the_steps_of_the_evaluation() -> None:
    threat = PGD(1.5, norm="l2", steps=3, restarts=9, start="gaussian", loss="kl")
    found = attack_for(threat, EvaluationSettings(steps=10, restarts=4))
    assert found == PGD(1.5, norm="l2", steps=10, start="uniform", restarts=4) and found.alpha == 0.375
    assert attack_for(threat, EvaluationSettings(step_size=0.01)).alpha == 0.01


@pytest.mark.parametrize(("restarts", "text"), [(1, "1 restart,"), (3, "3 restarts,")])
def test_the_attack_is_described(restarts: int, text: str) -> None:
    reported = describe(attack(0.2, 50, restarts))
    assert reported == f"PGD-50, {text} step 0.1, linf 0.2"


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_intervals_are_wilsons(successes: int, total: int, low: float, high: float) -> None:
    assert interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def test_an_evaluation_tells_its_intervals(model: nn.Module, digits: Dataset) -> None:
    evaluated = evaluate(model, digits, attack(), samples=40)
    assert evaluated.clean_interval == interval(round(40 * evaluated.clean_accuracy), 40)
    assert evaluated.robust_interval == interval(round(40 * evaluated.robust_accuracy), 40)
