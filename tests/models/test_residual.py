"""The networks for CIFAR and ImageNet are those of the papers, by their sizes, names and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring import plugins
from sparring.config import ModelSettings
from sparring.errors import UsageError
from sparring.models import MODELS, Shape, build, count_parameters
from sparring.models.residual import PreActivationBlock, PreActivationResNet, wide_resnet

CIFAR, SMALL = (3, 32, 32), (3, 8, 8)
RUN = [
    "preact-resnet-18",
    "preact-resnet-18-wong",
    "wrn-40-2",
]  # small enough to be run on a CPU; the others are built without numbers
RESIDUAL = [*RUN, "wrn-28-10", "wrn-28-10-silu", "wrn-34-10", "resnet-50"]


def on_meta(name: str, shape: Shape = CIFAR, classes: int = 10) -> nn.Module:
    """The network without its numbers: shapes only, at no cost."""
    with torch.device("meta"):
        factory: Any = plugins.resolve("model.name", name, MODELS)
        model: nn.Module = factory(shape, classes)
        return model


def made(name: str, shape: Shape = CIFAR, classes: int = 10, seed: int = 0) -> nn.Module:
    return build(ModelSettings(name=name), shape, classes, seed)


def parameters_of(stem: int, widths: Sequence[int], blocks: int, classes: int = 10) -> int:
    """By the papers' tables: 3×3 convolutions without bias, two numbers a channel for each batch norm."""
    total, inputs = 3 * stem * 9, stem
    for outputs in widths:
        for _ in range(blocks):
            total += 2 * inputs + inputs * outputs * 9 + 2 * outputs + outputs * outputs * 9
            total += inputs * outputs if inputs != outputs else 0
            inputs = outputs
    return total + 2 * inputs + inputs * classes + classes


@pytest.mark.parametrize(
    ("name", "layers", "published"),
    [
        ("preact-resnet-18", (64, (64, 128, 256, 512), 2), 11_171_146 + 2 * 512),  # copies without the last batch norm
        ("preact-resnet-18-wong", (64, (64, 128, 256, 512), 2), 11_172_170),
        ("wrn-28-10", (16, (160, 320, 640), 4), 36_479_194),
        ("wrn-28-10-silu", (16, (160, 320, 640), 4), 36_479_194),
        ("wrn-34-10", (16, (160, 320, 640), 5), 46_160_474),
        ("wrn-40-2", (16, (32, 64, 128), 6), 2_243_546),
    ],
)
def test_the_networks_have_the_published_size(
    name: str, layers: tuple[int, tuple[int, ...], int], published: int
) -> None:
    assert count_parameters(on_meta(name)) == parameters_of(*layers) == published


def test_resnet_50_has_the_published_size() -> None:
    assert count_parameters(on_meta("resnet-50", (3, 224, 224), 1000)) == 25_557_032


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("shape", [CIFAR, SMALL, (3, 33, 18)])
def test_images_of_every_size_become_float32_logits(name: str, shape: Shape) -> None:
    logits = on_meta(name, shape, 7)(torch.rand(5, *shape, device="meta"))
    assert logits.shape == (5, 7) and logits.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in RESIDUAL if name != "resnet-50"])
def test_images_are_halved_twice_or_thrice_before_they_are_pooled(name: str) -> None:
    model = on_meta(name)
    assert isinstance(model, PreActivationResNet)
    side = 4 if name.startswith("preact-resnet-18") else 8
    assert model.stages(model.stem(torch.rand(1, *CIFAR, device="meta"))).shape[2:] == (side, side)


def test_silu_takes_the_place_of_every_relu() -> None:
    kinds = {type(module) for module in on_meta("wrn-28-10-silu").modules()}
    assert nn.SiLU in kinds and nn.ReLU not in kinds


def affine(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation by its formula, with the running statistics."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight / (bn.running_var + 1e-5).sqrt()
    return (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (6, 1), (6, 2), (4, 2)])
@pytest.mark.parametrize(("activation", "function"), [(nn.ReLU, lambda x: x.clamp(min=0)), (nn.SiLU, F.silu)])
def test_a_block_is_the_papers_composition(
    outputs: int, stride: int, activation: type[nn.Module], function: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    block = PreActivationBlock(4, outputs, stride, activation).double().eval()
    for value in block.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5).mul_(torch.randn(()).sign() if value.ndim == 4 else 1)
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    activated = function(affine(x, block.bn1))
    inner = function(affine(F.conv2d(activated, block.conv1.weight, stride=stride, padding=1), block.bn2))
    kept = x
    if (outputs, stride) != (4, 1):
        assert block.shortcut is not None
        kept = torch.einsum("oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], activated[:, :, ::stride, ::stride])
    expected = kept + F.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        ("wrn-40-2", SMALL, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        ("preact-resnet-18", (1, 8, 8), (0.5,), (0.5,)),
        ("wrn-40-2", (4, 9, 9), (0.5,) * 4, (0.5,) * 4),
        ("resnet-50", SMALL, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_are_normalised_inside(name: str, shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    model = made(name, shape).eval()
    bare = deepcopy(model)
    bare.normalize = nn.Identity()
    grey = torch.full((1, *shape), 0.7)
    normalised = torch.stack([torch.full(shape[1:], (0.7 - m) / s) for m, s in zip(mean, std, strict=True)])[None]
    with torch.no_grad():
        torch.testing.assert_close(model(grey), bare(normalised), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(grey), bare(grey), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", RUN)
def test_evaluation_is_deterministic_and_independent_of_the_batch(name: str) -> None:
    model, x = made(name, SMALL).eval(), torch.rand(3, *SMALL)
    before = deepcopy(model.state_dict())
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(model(x), logits)
        torch.testing.assert_close(model(x[:1]), logits[:1], rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", RUN)
def test_a_step_reaches_every_parameter_and_the_images(name: str) -> None:
    model, x = made(name, SMALL), torch.rand(2, 3, 16, 16, requires_grad=True)
    assert model.training
    loss = F.cross_entropy(model(x), torch.tensor([1, 2]))
    gradients = torch.autograd.grad(loss, [x, *model.parameters()])
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("name", RUN)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two, other = (made(name, SMALL, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_convolutions_start_with_the_variance_of_he() -> None:
    model = made("wrn-40-2", SMALL)
    large = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000]
    for conv in large:
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert large and isinstance(model, PreActivationResNet) and not model.linear.bias.any()


def batch_norm(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


@pytest.mark.parametrize(
    ("name", "last_block"),
    [
        ("preact-resnet-18", "3.1"),
        ("preact-resnet-18-wong", "3.1"),
        ("wrn-40-2", "2.5"),
        ("wrn-28-10", "2.3"),
        ("wrn-34-10", "2.4"),
    ],
)
def test_the_names_of_saved_weights_stay(name: str, last_block: str) -> None:
    names = list(on_meta(name).state_dict())
    shortcut = [] if name.startswith("preact-resnet-18") else ["stages.0.0.shortcut.weight"]
    block = [*batch_norm("stages.0.0.bn1"), "stages.0.0.conv1.weight", *batch_norm("stages.0.0.bn2")]
    first = ["normalize.mean", "normalize.std", "stem.weight", *block, "stages.0.0.conv2.weight", *shortcut]
    assert names[: len(first)] == first
    last = [f"stages.{last_block}.conv2.weight", *batch_norm("bn"), "linear.weight", "linear.bias"]
    assert names[-len(last) :] == last


def test_the_names_of_resnet_50_are_torchvisions() -> None:
    names = list(on_meta("resnet-50").state_dict())
    assert names[:4] == ["normalize.mean", "normalize.std", "resnet.conv1.weight", "resnet.bn1.weight"]
    assert names[-2:] == ["resnet.fc.weight", "resnet.fc.bias"]


def test_resnet_50_refuses_images_without_colour() -> None:
    with pytest.raises(
        UsageError, match=r"model.name = 'resnet-50' cannot be built .* takes images of 3 channels, not 1"
    ):
        made("resnet-50", (1, 28, 28))


@pytest.mark.parametrize("depth", [4, 27, 35, -2])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth = {depth}, but a wide ResNet has depth 6n \+ 4"):
        wide_resnet(CIFAR, 10, depth=depth, width=1)


def test_a_shortcut_of_wong_et_al_starts_from_the_blocks_input() -> None:
    torch.manual_seed(0)
    block = PreActivationBlock(4, 6, 2, nn.ReLU, shortcut_of_input=True).double().eval()
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    assert block.shortcut is not None
    inner = affine(F.conv2d(affine(x, block.bn1).relu(), block.conv1.weight, stride=2, padding=1), block.bn2).relu()
    kept = torch.einsum("oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    expected = kept + F.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_the_network_of_wong_et_al_has_their_shortcuts_and_starts_as_torch_does() -> None:
    """torch draws a convolution's weights uniformly from ±1 / √fan-in: their standard deviation is 1 / √(3·fan-in)."""
    model = made("preact-resnet-18-wong", SMALL)
    shortcuts = [block for block in model.modules() if isinstance(block, PreActivationBlock) and block.shortcut]
    assert len(shortcuts) == 3 and all(block.shortcut_of_input for block in shortcuts)
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        bound = (conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]) ** -0.5
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert conv.weight.abs().max().item() <= bound
    assert isinstance(model, PreActivationResNet) and model.linear.bias.any()


def test_augmixs_wide_network_sees_images_from_minus_1_to_1() -> None:
    settings = ModelSettings(name="wrn-40-2", options={"centred": True})
    model = build(settings, SMALL, 10, 0)
    assert isinstance(model, PreActivationResNet)
    x = torch.tensor([0.0, 0.25, 1.0]).view(1, 3, 1, 1).expand(1, *SMALL)
    torch.testing.assert_close(model.normalize(x)[0, :, 0, 0], torch.tensor([-1.0, -0.5, 1.0]))
