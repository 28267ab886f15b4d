"""The BulletTrain allocator against its formulas in float64, and what it makes of a whole ticket."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.attacks.gradient import attack_from
from torch import Tensor, nn

from sparring.allocators.bullettrain import (
    BOUNDARY,
    OUTLIER,
    ROBUST,
    allocate,
    classify,
    classify_by_attack,
    signed_variance,
    speedup_ceiling,
    theoretical_speedup,
    updated_robust_share,
)
from sparring.attacks import PGD, frozen, perturb
from sparring.config import AllocatorSettings, Config, from_tree
from sparring.data import TrainingSet, batch, load, training_set
from sparring.models import build
from sparring.observe.state import RunState
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator
from sparring.workers.generator import Production, produce

INDICES = tuple(range(40))


def in_float64(logits: Tensor, labels: Tensor, robust_share: float) -> tuple[list[float], list[int]]:
    """Signed variances and classes as Hua et al. writes them."""
    variances = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        probabilities = [power / sum(powers) for power in powers]
        mean = sum(probabilities) / len(row)
        variance = sum((p - mean) ** 2 for p in probabilities) / len(row)
        variances.append(variance if row.index(max(row)) == label else -variance)
    threshold = float(np.percentile(variances, 100 * (1 - robust_share)))
    classes = [
        OUTLIER if value < 0 else BOUNDARY if robust_share == 0 or value < threshold else ROBUST for value in variances
    ]
    return variances, classes


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 50), st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.8, 1.0]))
def test_variance_and_classes_are_those_of_the_formulas(seed: int, n: int, robust_share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(n, 10, generator=random), torch.randint(10, (n,), generator=random)
    labels[::2] = logits[::2].argmax(1)
    variances, classes = in_float64(logits, labels, robust_share)
    variance = signed_variance(logits, labels)
    assert torch.allclose(variance.double(), torch.tensor(variances, dtype=torch.float64), atol=1e-6)
    # An example within rounding of the threshold may fall on either side of it.
    threshold = float(np.percentile(variances, 100 * (1 - robust_share)))
    clear = [abs(value - threshold) > 1e-6 for value in variances]
    told = classify(variance, robust_share).tolist()
    assert [each for each, sure in zip(told, clear, strict=True) if sure] == [
        each for each, sure in zip(classes, clear, strict=True) if sure
    ]


def test_with_no_robust_share_no_example_is_robust() -> None:
    assert classify(torch.tensor([0.1, 0.3, -0.2, 0.0]), 0.0).tolist() == [BOUNDARY, BOUNDARY, OUTLIER, BOUNDARY]


def test_with_a_whole_robust_share_every_example_that_is_right_is_robust() -> None:
    assert classify(torch.tensor([0.1, 0.3, -0.2]), 1.0).tolist() == [ROBUST, ROBUST, OUTLIER]


def test_the_oracle_goes_by_the_definitions() -> None:
    right, attacked = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert classify_by_attack(right, attacked).tolist() == [ROBUST, BOUNDARY, OUTLIER, OUTLIER]


def test_steps_and_step_sizes_go_by_class() -> None:
    chosen = AllocatorSettings(name="bullettrain", boundary_steps=10, robust_steps=2, outlier_steps=0)
    attack = PGD(0.031, steps=10, step_size=0.007)
    counts, sizes, classes = allocate(torch.tensor([OUTLIER, BOUNDARY, ROBUST, ROBUST]), chosen, attack)
    assert counts.tolist() == [0, 10, 2, 2] and classes == (1, 1, 2)
    assert sizes[1:].tolist() == pytest.approx([0.007, 1.7 * 0.031 / 2, 1.7 * 0.031 / 2])


def test_the_boundary_gets_the_recipes_steps_where_none_are_set() -> None:
    counts, sizes, _ = allocate(torch.tensor([BOUNDARY]), AllocatorSettings(), PGD(0.3, steps=8, step_size=0.1))
    assert counts.tolist() == [8] and sizes.tolist() == pytest.approx([0.1])


def test_the_robust_share_follows_the_robust_accuracy() -> None:
    chosen = AllocatorSettings(gamma=0.8, momentum=0.9)
    share = 0.0
    for accuracy in (0.5, 0.7):
        share = updated_robust_share(share, accuracy, chosen)
    assert share == pytest.approx(0.9 * (0.1 * 0.8 * 0.5) + 0.1 * 0.8 * 0.7)
    for _ in range(500):
        share = updated_robust_share(share, 0.6, chosen)
    assert share == pytest.approx(0.8 * 0.6)


@pytest.mark.parametrize(
    ("fractions", "robust_steps", "told"), [((18, 28, 54), 2, 2.3), ((27, 29, 44), 1, 2.5), ((26, 30, 43), 2, 2.2)]
)
def test_equation_7_gives_the_papers_speed_ups(fractions: tuple[int, int, int], robust_steps: int, told: float) -> None:
    chosen = AllocatorSettings(boundary_steps=10, robust_steps=robust_steps)
    assert theoretical_speedup(fractions, chosen, 10) == pytest.approx(told, abs=0.07)


def test_the_ceiling_is_equation_7_where_a_step_is_an_attack_step_and_classifying_is_free() -> None:
    chosen = AllocatorSettings(boundary_steps=10, robust_steps=2)
    fractions = (0.18, 0.28, 0.54)

    def ceiling(forward_s: float, step_s: float, needs_clean: bool) -> float:
        return speedup_ceiling(
            fractions, chosen, 10, forward_s=forward_s, attack_step_s=1.0, step_s=step_s, needs_clean=needs_clean
        )

    spent = 0.28 * 10 + 0.54 * 2
    assert ceiling(0.0, 1.0, False) == pytest.approx(theoretical_speedup(fractions, chosen, 10))
    assert ceiling(0.4, 1.5, False) == pytest.approx((10 + 1.5) / (0.4 + spent + 1.5))
    assert ceiling(0.4, 1.5, True) == pytest.approx((0.4 + 10 + 1.5) / (0.4 + spent + 1.5))
    assert theoretical_speedup(fractions, chosen, 10, restarts=2) == pytest.approx(21 / (2 * spent + 1))


def test_the_wall_clock_speed_up_counts_work_and_is_none_without_an_allocator() -> None:
    state = RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0, theoretical_speedup=2.3)
    assert state.wallclock_speedup == pytest.approx((80 + 20) / (30 + 20))
    assert RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0).wallclock_speedup is None


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return training_set(Config(), load(Config().data, "train"))


@pytest.fixture(scope="module")
def model(digits: TrainingSet) -> nn.Module:
    """Trained for a few steps: some examples are right, some wrong."""
    config = Config()
    made = build(config.model, digits.shape, digits.classes, 0)
    x, y = batch(digits, torch.arange(len(digits)), augment="none", seed=0, epoch=0)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.003)
    for _ in range(8):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(made(x), y))
        optimizer.step()
    return made


def made_by(
    allocator: dict[str, object], model: nn.Module, digits: TrainingSet, **groups: object
) -> tuple[Config, Shard]:
    config = from_tree({"attack": {"steps": 5, "warmup_epochs": 0}, "allocator": allocator, **groups})
    return config, produce(config, model, digits, Key(0, 0, 0), INDICES, Controls(0.1, 0.4), version=7)


@pytest.mark.parametrize("objective", ["pgd-at", "trades", "mart"])
def test_a_ticket_is_what_each_example_alone_would_be(model: nn.Module, digits: TrainingSet, objective: str) -> None:
    config, shard = made_by({"name": "bullettrain"}, model, digits, objective={"name": objective})
    x, y = batch(digits, torch.tensor(INDICES), augment="none", seed=0, epoch=0)
    with frozen(model), torch.no_grad():
        classes = classify(signed_variance(model(x), y), 0.4)
    assert shard.classes == tuple(torch.bincount(classes, minlength=3).tolist()) and min(shard.classes) > 0
    untouched = classes == OUTLIER
    assert not shard.delta[untouched].any() and shard.delta[~untouched].flatten(1).any(1).all()
    steps = {OUTLIER: 0, BOUNDARY: 5, ROBUST: 2}
    assert shard.gradients == sum(steps[each] for each in classes.tolist())
    attack = attack_from(config.attack, 0.1, objective)
    everywhere = PGD(
        0.1, norm=attack.norm, steps=5, step_size=attack.step_size, start=attack.start, restarts=1, loss=attack.loss
    )
    with frozen(model):
        whole = perturb(model, x, y, everywhere, generator(0, "attack", 0, 0))
    boundary = classes == BOUNDARY
    assert torch.allclose(shard.delta[boundary], whole[boundary], atol=1e-5)
    assert not torch.allclose(shard.delta[classes == ROBUST], whole[classes == ROBUST], atol=1e-3)


def test_a_ticket_on_which_nothing_is_spent_is_clean_and_keeps_its_version(
    model: nn.Module, digits: TrainingSet
) -> None:
    _, shard = made_by({"name": "bullettrain", "robust_steps": 0}, model, digits)
    config = from_tree({"allocator": {"name": "bullettrain", "robust_steps": 0}})
    every = produce(config, model, digits, Key(0, 0, 0), INDICES[:1], Controls(0.1, 1.0), version=7)
    assert not every.delta.any() and (every.version, every.start_version, every.gradients) == (7, 7, 0)
    assert shard.gradients == 5 * shard.classes[BOUNDARY]


def test_the_oracle_spends_full_steps_on_what_ten_steps_break(model: nn.Module, digits: TrainingSet) -> None:
    _, shard = made_by({"name": "oracle", "robust_steps": 0}, model, digits)
    assert sum(shard.classes) == len(INDICES) and shard.classes[BOUNDARY] > 0
    assert shard.gradients == 10 * len(INDICES) + 5 * shard.classes[BOUNDARY], "ten steps to classify each"


def test_the_oracle_goes_by_cross_entropy_whatever_is_attacked(model: nn.Module, digits: TrainingSet) -> None:
    same_start = {"attack": {"steps": 5, "warmup_epochs": 0, "start": "uniform"}}
    found = [
        made_by({"name": "oracle"}, model, digits, **same_start, objective={"name": name})[1].classes
        for name in ("pgd-at", "trades")
    ]
    assert found[0] == found[1] and found[0][BOUNDARY] > 0


def test_every_attacked_example_ends_on_the_newest_weights(model: nn.Module, digits: TrainingSet) -> None:
    config = from_tree({"attack": {"steps": 5}, "allocator": {"name": "bullettrain"}})
    sizes: list[int] = []
    watch = model.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    with frozen(model):
        production = Production(config, model, digits, Key(0, 0, 0), INDICES, Controls(0.1, 0.4), version=3)
        for version in (4, 5, 6, 7, 8):
            production.advance(version)
    watch.remove()
    shard = production.shard()
    _, boundary, robust = shard.classes
    assert sizes == [len(INDICES), boundary, boundary, boundary, boundary + robust, boundary + robust]
    assert (shard.start_version, shard.version) == (3, 7), "the older one of the last two steps, which all have made"
