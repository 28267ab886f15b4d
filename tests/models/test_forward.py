"""What autocast, channels_last and compilation change in a pass, and what they must not."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import PGD, Norm, cross_entropy, frozen, input_gradient, perturb
from sparring.attacks.norms import l2_norms
from sparring.commands.train import train
from sparring.config import DataSettings, ModelSettings
from sparring.data import Dataset, batch, load
from sparring.errors import UsageError
from sparring.evaluation import evaluate
from sparring.models import build
from sparring.models.forward import for_training, plain, with_scaled_gradient
from tests.support.fragile import make
from tests.support.runs import small

SMALL = ModelSettings(name="mnist-16-32-100")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataSettings(), "train")


def first(digits: Dataset, count: int) -> tuple[Tensor, Tensor]:
    return batch(digits, torch.arange(count), augment="none", seed=0, epoch=0)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> nn.Module:
    """A network that knows the digits a little."""
    model = build(SMALL, digits.shape, digits.classes, 0)
    x, y = first(digits, 512)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def some(digits: Dataset) -> tuple[Tensor, Tensor]:
    return first(digits, 32)


def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.0)])
def test_an_attack_in_half_precision_stays_in_its_ball_and_finds_nearly_the_same_loss(
    trained: nn.Module, digits: Dataset, precision: str, norm: Norm, epsilon: float
) -> None:
    x, y = some(digits)
    attack = PGD(epsilon, norm=norm, steps=5, step_size=epsilon / 2)
    half = for_training(trained, ModelSettings.model_validate({"precision": precision}))
    deltas = []
    for model in (trained, half):
        with frozen(model):
            deltas.append(perturb(model, x, y, attack, torch.Generator().manual_seed(0)))
    exact, cast = deltas
    assert cast.dtype == torch.float32 and not torch.equal(cast, exact)
    size = cast.abs().max() if norm == "linf" else l2_norms(cast.flatten(1)).max()
    assert float(size) <= epsilon + 1e-6
    assert float((x + cast).min()) >= 0 and float((x + cast).max()) <= 1
    gain = mean_loss(trained, x + exact, y) - mean_loss(trained, x, y)
    assert mean_loss(trained, x + cast, y) - mean_loss(trained, x, y) == pytest.approx(gain, rel=0.02)


def confident(model: nn.Module) -> nn.Module:
    """With logits ten times as large: their gradients are far below what fp16 holds."""
    sure = build(SMALL, (1, 8, 8), 10, 0).eval()
    sure.load_state_dict(model.state_dict())
    with torch.no_grad():
        sure[-1].weight.mul_(10)  # type: ignore[index]
        sure[-1].bias.mul_(10)  # type: ignore[index]
    return sure


def test_a_confident_example_still_has_a_gradient_in_fp16(trained: nn.Module, digits: Dataset) -> None:
    model, (x, y) = confident(trained), some(digits)
    half = for_training(model, ModelSettings(precision="fp16"))
    exact = input_gradient(model, x, y, cross_entropy)
    sure = exact.flatten(1).abs().amax(1).gt(1e-20) & F.cross_entropy(model(x), y, reduction="none").lt(1e-7)
    assert int(sure.sum()) >= 5
    unscaled = input_gradient(half._cast, x[sure], y[sure], cross_entropy)  # type: ignore[arg-type]
    assert not unscaled.any(), "this would show nothing if fp16 held the gradient as it is"
    scaled = input_gradient(half, x[sure], y[sure], cross_entropy)
    similarity = F.cosine_similarity(scaled.flatten(1) / 1e-10, exact[sure].flatten(1) / 1e-10)
    assert float(similarity.min()) > 0.99
    ratio = l2_norms(scaled.flatten(1)) / l2_norms(exact[sure].flatten(1))
    assert torch.allclose(ratio, torch.ones(()), atol=0.3), "logits of 50 are exact to 0.03, so are the probabilities"


def test_a_gradient_that_overflows_in_fp16_is_no_step_and_no_nan() -> None:
    x = torch.tensor([[[[0.5, 0.5]]]], requires_grad=True)

    def steep(images: Tensor) -> Tensor:
        return (images.half() * torch.tensor([6e4, 1.0]).half()).float().flatten(1)

    gradient = torch.autograd.grad(with_scaled_gradient(steep, x).sum(), x)[0]
    assert gradient.flatten().tolist() == [0.0, 1.0]


class Watching(nn.Module):
    """Notes in which precision it is passed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        self.seen.add(logits.dtype)
        return logits


def test_training_passes_are_cast_and_evaluations_are_not(digits: Dataset) -> None:
    watching = Watching()
    model = for_training(watching, ModelSettings(precision="bf16"))
    assert model(some(digits)[0]).dtype == torch.float32 and watching.seen == {torch.bfloat16}
    watching.seen.clear()
    evaluate(model, digits, PGD(0.1, steps=1, step_size=0.1), samples=20)
    assert watching.seen == {torch.float32}


def test_what_is_saved_knows_nothing_of_it(trained: nn.Module) -> None:
    settings = ModelSettings(precision="bf16", channels_last=True)
    model = build(SMALL, (1, 8, 8), 10, 1)
    around = for_training(model, settings)
    around.load_state_dict(trained.state_dict())
    assert plain(around) is model and list(around.state_dict()) == list(trained.state_dict())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in trained.state_dict().items())
    assert for_training(model, ModelSettings()) is model


def test_a_copy_passes_weights_of_its_own(trained: nn.Module, digits: Dataset) -> None:
    around = for_training(copy.deepcopy(trained), ModelSettings(precision="bf16"))
    other = copy.deepcopy(around)
    x, _ = some(digits)
    before = around(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not other(x).any() and torch.equal(around(x), before)


def test_channels_last_changes_where_numbers_lie_and_not_what_they_are(trained: nn.Module, digits: Dataset) -> None:
    model = build(SMALL, digits.shape, 10, 1)
    model.load_state_dict(trained.state_dict())
    around = for_training(model, ModelSettings(channels_last=True)).eval()
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    x, _ = some(digits)
    assert torch.allclose(around(x), trained(x), atol=1e-5)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_gives_the_same_logits_and_gradients() -> None:
    model = make((1, 4, 4), 3).eval()
    compiled = for_training(model, ModelSettings(compile=True)).eval()
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    with frozen(compiled):
        gradient = input_gradient(compiled, x, y, cross_entropy)
        assert torch.allclose(gradient, input_gradient(model, x, y, cross_entropy), atol=1e-6)
        with torch.no_grad():
            model.linear.weight.mul_(2)  # type: ignore[union-attr, operator]
            model.linear.bias.add_(1)  # type: ignore[union-attr, operator]
        assert torch.allclose(compiled(x.requires_grad_()), model(x), atol=1e-6), "weights are swapped in place"
    assert list(compiled.state_dict()) == ["linear.weight", "linear.bias"]


def test_a_missing_compiler_is_told_before_a_run_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"model\.compile = true: no C\+\+ compiler 'no-such-compiler'"):
        train(small(tmp_path, engine="sync", model={"compile": True}))
    assert not list(tmp_path.iterdir())
