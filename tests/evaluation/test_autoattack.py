"""AutoAttack: the ensemble decides as it should, and the package's side effects stay inside the adapter."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Norm
from sparring.config import EvaluationSettings
from sparring.data import ArrayDataset
from sparring.errors import SparringError
from sparring.evaluation import autoattack as module
from sparring.evaluation import evaluate_by
from sparring.evaluation.autoattack import attacks_for, autoattack, describe, incomplete, square
from tests.support.models import Brightness, greys

N = 12
SENTENCE = (
    r"AutoAttack: (?P<attacks>\d) of \d attacks done, (\d+ of \d+ batches of [\w-]+, )?(?P<passes>\d+) forward passes"
)


class Linear(nn.Module):
    """Logits linear in the image; with dropout, which only matters outside eval mode."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(64, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(classes, 64, generator=generator))
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 8, 8]."""
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


def images(count: int = N) -> Tensor:
    """Greys in [0.3, 0.7], so that no ball of the tests reaches the end of the image box."""
    return 0.3 + 0.4 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def distances(model: Linear, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """[N, classes - 1]: how far each other class is; of a linear model, its margin over the weights' dual norm."""
    logits, weights = model.eval()(x).detach(), model.linear.weight.detach()
    order = {"linf": 1, "l2": 2}[norm]
    found = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        others = [other for other in range(len(row)) if other != label]
        lengths = torch.linalg.vector_norm(weights[label] - weights[others], ord=order, dim=1)
        found.append((row[label] - row[others]) / lengths)
    return torch.stack(found)


def case(classes: int, norm: Norm = "linf") -> tuple[Linear, Tensor, Tensor, float, Tensor]:
    """A model, images, labels (the first is wrong), an ε that half of the rest survive, and who does."""
    model, x = Linear(classes), images()
    with torch.no_grad():
        labels = model.eval()(x).argmax(1)
    labels[0] = (labels[0] + 1) % classes
    nearest = distances(model, x, labels, norm).amin(1)
    ordered = nearest[1:].sort().values
    epsilon = float(ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2
    assert epsilon < 0.3 or norm == "l2"
    return model, x, labels, epsilon, nearest > epsilon


def survivors(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, classes: int, **other: Any) -> Tensor:
    settings: dict[str, Any] = {"norm": "linf", "seed": 0, "batch_size": 8} | other
    return autoattack(model, x, labels, epsilon=epsilon, classes=classes, **settings).alive


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny operations: beside other work, threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about Square's strength."""
    monkeypatch.setattr(module, "SQUARE_QUERIES", 20)


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(
    ("classes", "norm"), [(2, "linf"), (3, "linf"), (4, "linf"), (5, "linf"), (12, "linf"), (5, "l2")]
)
def test_of_a_linear_model_exactly_the_examples_survive_whose_boundary_is_outside_the_ball(
    classes: int, norm: Norm
) -> None:
    model, x, labels, epsilon, expected = case(classes, norm)
    assert 0 < int(expected.sum()) < N - 1
    assert torch.equal(survivors(model, x, labels, epsilon, classes, norm=norm), expected)


@pytest.mark.parametrize(
    ("classes", "attacks"),
    [
        (2, ("apgd-ce", "fab", "square")),
        (3, ("apgd-ce", "fab-t", "square")),
        (4, ("apgd-ce", "apgd-t", "fab-t", "square")),
        (10, ("apgd-ce", "apgd-t", "fab-t", "square")),
    ],
)
def test_the_attacks_are_those_that_the_classes_allow(classes: int, attacks: tuple[str, ...]) -> None:
    assert attacks_for(classes) == attacks


def test_an_attack_that_was_chosen_is_made_or_refused() -> None:
    assert attacks_for(4, "standard", ("square", "apgd-t")) == ("square", "apgd-t")
    with pytest.raises(SparringError, match=r"evaluation\.attacks with 'apgd-t' on data of 3 classes: it needs 4"):
        attacks_for(3, "standard", ("square", "apgd-t"))


def test_the_ensemble_of_few_classes_has_the_standard_settings_otherwise() -> None:
    make, device = module._ensemble, torch.device("cpu")
    how: dict[str, Any] = {"version": "standard", "attacks": module.STANDARD}
    standard, few = (
        make(Linear(classes), device, norm="linf", epsilon=0.1, classes=classes, seed=0, **how) for classes in (10, 5)
    )
    assert standard.attacks_to_run == few.attacks_to_run == list(module.STANDARD)
    for ensemble, targets in ((standard, 9), (few, 4)):
        assert ensemble.apgd_targeted.n_target_classes == ensemble.fab.n_target_classes == targets
        parts = (ensemble.apgd, ensemble.apgd_targeted, ensemble.fab, ensemble.square)
        assert [part.n_restarts for part in parts] == [1, 1, 1, 1]
        assert [part.seed for part in parts] == [0, 0, 0, 0] and ensemble.square.n_queries == 5000


def test_the_attack_is_described() -> None:
    assert describe("linf", 0.3, 10) == "AutoAttack standard (apgd-ce, apgd-t, fab-t, square), linf 0.3"
    assert describe("l2", 1.5, 3) == "AutoAttack for 3 classes (apgd-ce, fab-t, square), l2 1.5"


@pytest.mark.usefixtures("few_queries")
def test_attacking_leaves_model_random_state_tracing_and_logger_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    model, x, labels, epsilon, expected = case(3)
    model.train()
    model.linear.bias.requires_grad_(False)
    torch.manual_seed(5)
    logger, state, weights = logging.getLogger("auto-attack"), torch.get_rng_state(), model.linear.weight.clone()
    logged = (logger.handlers[:], logger.level, logger.propagate)

    def trace(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = survivors(model, x, labels, epsilon, 3)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert torch.equal(found, expected), "dropout was off"
    assert model.training and model.dropout.training
    assert [each.requires_grad for each in model.parameters()] == [True, False]
    assert all(each.grad is None for each in model.parameters()) and torch.equal(model.linear.weight, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert (logger.handlers, logger.level, logger.propagate) == logged
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("few_queries")
def test_the_same_seed_gives_the_same_answer_whatever_ran_before() -> None:
    class Rough(nn.Module):
        """Its gradients lead nowhere, so that the random starts and Square's draws decide."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(2)))

        def forward(self, x: Tensor) -> Tensor:
            """Class 0 where a projection's first decimals say so."""
            score = torch.sin(40 * x.flatten(1) @ self.weight).round(decimals=1) + 0 * x.flatten(1).sum(1)
            return torch.stack([score + 0.98, torch.zeros_like(score)], 1)

    model, x = Rough(), images(64)
    labels = torch.zeros(64, dtype=torch.int64)
    answers: list[Tensor] = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(answers))
        answers.append(survivors(model, x, labels, 0.0005, 2, seed=seed, batch_size=64))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    assert 0 < int(answers[0].sum()) < 64


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("share", [1.0, 100.0])
def test_progress_tells_attacks_and_batches_and_ends_with_all_attacks_done(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every example has fallen (100 ε) and the remaining attacks are left out."""
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 1e9)  # nothing is reported within a batch, however slow the machine
    model, x, labels, epsilon, _ = case(5)
    reported: list[str] = []
    survivors(model, x, labels, share * epsilon, 5, batch_size=4, progress=reported.append)
    found = [re.fullmatch(SENTENCE, each) for each in reported]
    numbers = [(int(each["attacks"]), int(each["passes"])) for each in found if each is not None]
    assert len(numbers) == len(reported) >= 4 and numbers == sorted(numbers)
    assert [attacks for attacks, _ in numbers].count(4) == 1 and numbers[-1][0] == 4
    assert reported[0].startswith("AutoAttack: 0 of 4 attacks done, 1 of 3 batches of apgd-ce, ")


def test_progress_is_told_within_a_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one batch holds all, forward passes say that it goes on."""
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(module, "SQUARE_QUERIES", 20)
    model, x, labels, epsilon, _ = case(2)
    reported: list[str] = []
    survivors(model, x, labels, epsilon, 2, batch_size=N, progress=reported.append)
    assert len(reported) > 200 and all(re.fullmatch(SENTENCE, each) for each in reported)
    assert reported[0] == "AutoAttack: 0 of 3 attacks done, 1 forward passes"


def test_square_breaks_what_is_near_and_nothing_beyond_the_ball() -> None:
    dataset = greys(torch.tensor([0.02, -0.02, 0.02, 0.2, -0.2, 0.2]))
    x, labels = dataset.images(torch.arange(6)).float() / 255, dataset.labels
    model, reported = Brightness(), list[str]()
    settings: dict[str, Any] = {"norm": "linf", "epsilon": 0.1, "classes": 2, "seed": 0, "batch_size": 4}
    alive = square(model, x, labels, queries=300, progress=reported.append, **settings).alive
    assert alive.tolist() == [False] * 3 + [True] * 3
    assert reported[-1].endswith(" forward passes")


class Stop(Exception):
    """What a caller stops the judgement with."""


@pytest.mark.parametrize("pulse_s", [0.0, 1e9], ids=["in a forward pass", "after a batch"])
def test_an_exception_from_progress_ends_the_judgement_and_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, pulse_s: float
) -> None:
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", pulse_s)
    model, x, labels, epsilon, _ = case(5)
    model.train()
    reported: list[str] = []

    def stop(said: str) -> None:
        reported.append(said)
        raise Stop

    before = sys.gettrace()
    with pytest.raises(Stop):
        survivors(model, x, labels, epsilon, 5, progress=stop)
    assert len(reported) == 1 and sys.gettrace() is before
    assert logging.getLogger("auto-attack").handlers == [] and model.training and torch.is_grad_enabled()


@pytest.mark.usefixtures("few_queries")
def test_the_packages_warnings_are_passed_on_once(caplog: pytest.LogCaptureFixture) -> None:
    class Probabilities(Linear):
        def forward(self, x: Tensor) -> Tensor:
            """x: float32 [N, 1, 8, 8]; not the logits that the ensemble wants."""
            return super().forward(x).softmax(1)

    model, x, labels, epsilon, _ = case(3)
    model = Probabilities(3)
    survivors(model, x, labels, epsilon, 3)
    assert [each.name for each in caplog.records] == ["sparring.evaluation.autoattack"]
    assert "output is a probability distribution" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.11,
        lambda x: x + 0.1 + 2e-6,
        lambda x: x - 1e-2 * (x == x.min()) - x.min(),
        lambda x: x * torch.nan,
    ],
    ids=["outside the ball", "barely outside the ball", "outside the image box", "not a number"],
)
def test_images_outside_ball_or_box_are_refused(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor]
) -> None:
    def run(self: object, x: Tensor, y: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return spoil(x), y

    monkeypatch.setattr("pyautoattack.AutoAttack.run_standard_evaluation", run)
    model, x, labels, _, _ = case(3)
    x = x - x.min() if spoil(x).min() < 0 else x
    with pytest.raises(SparringError, match=r"attack\.epsilon = 0\.1 .*(Set evaluation\.attack|Look in the model)"):
        survivors(model, x, labels, 0.1, 3)


def test_a_millionth_over_the_ball_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: object, x: Tensor, y: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return x + 0.1 + 5e-7, y

    monkeypatch.setattr("pyautoattack.AutoAttack.run_standard_evaluation", run)
    model, x, labels, _, _ = case(3)
    assert survivors(model, x, labels, 0.1, 3).all()


def test_what_the_ensemble_cannot_attack_is_refused_by_name() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(SparringError, match="4 pixels a side"):
        survivors(nn.Linear(1, 1), torch.zeros(2, 1, 4, 8), labels, 0.1, 10, norm="l2")
    with pytest.raises(SparringError, match="data of 1 class"):
        survivors(nn.Linear(1, 1), torch.zeros(2, 1, 8, 8), labels, 0.1, 1)


@pytest.mark.usefixtures("few_queries")
def test_an_evaluation_takes_attack_ball_and_count_from_the_settings() -> None:
    model, x, labels, epsilon, _ = case(3)
    dataset = ArrayDataset((x * 255).round().to(torch.uint8), labels, 3, "greys")
    reported: list[str] = []
    threat = PGD(epsilon)

    def evaluated(**settings: Any) -> Any:
        return evaluate_by(model, dataset, threat, EvaluationSettings(**settings), 0, reported.append)

    pgd = evaluated(steps=20, samples=11)
    assert pgd.attack.startswith("PGD-20, 3 restarts") and pgd.samples == 11
    assert reported == ["0 of 11 test examples attacked", "11 of 11 test examples attacked"]
    reported.clear()
    found = evaluated(attack="autoattack", samples=11, batch_size=4)
    assert found.attack == describe("linf", epsilon, 3) and found.samples == 11
    assert found.robust_accuracy <= pgd.robust_accuracy < found.clean_accuracy == pgd.clean_accuracy == 10 / 11
    assert reported[0] == "AutoAttack on 11 test examples" and reported[-1].startswith(
        "AutoAttack: 3 of 3 attacks done"
    )


@pytest.mark.parametrize(
    ("classes", "version", "chosen", "missing"),
    [
        (10, "standard", (), None),
        (10, "rand", (), None),
        (10, "standard", ("square",), "apgd-ce, apgd-t, fab-t"),
        (10, "standard", ("square", "fab-t", "apgd-t", "apgd-ce", "fab"), None),
        (2, "standard", ("apgd-ce", "fab"), "square"),
    ],
)
def test_attacks_that_leave_out_some_of_the_standard_version_are_told(
    classes: int, version: str, chosen: tuple[str, ...], missing: str | None
) -> None:
    told = incomplete(classes, version, chosen)
    assert [text.split(" this is not")[0] for text in told] == ([] if missing is None else [f"Without {missing}"])
