"""Residual networks for CIFAR and ImageNet: PreActResNet-18, the wide ResNets of TRADES, and torchvision's ResNet-50.

The pre-activation networks follow He et al. 2016 (arXiv:1603.05027) and Zagoruyko & Komodakis 2016 (arXiv:1605.07146),
without dropout, in the form that adversarial training uses them in: where the shape changes, the 1×1 shortcut starts
from the activated input, as in TRADES' and AWP's code. PreActResNet-18 also has the form of Wong et al.'s code, where
it starts from the input itself. TRADES' network also holds a stage that its forward never uses
(`sub_block1`); it is left out here, as from the published 46.2 million weights of WRN-34-10.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from sparring.machine.torchvision_import import torchvision
from sparring.models.normalize import Normalize, normalize_cifar

Activation = Callable[[], nn.Module]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PreActivationBlock(nn.Module):
    """x + conv(σ(bn(conv(σ(bn(x)))))); where the shape changes, a 1×1 convolution takes x's place.

    shortcut_of_input: it is the convolution of x, not of σ(bn(x)).
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: Activation, shortcut_of_input: bool = False
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.activation, self.shortcut_of_input = activation(), shortcut_of_input

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs, H, W]; returns [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉]."""
        activated = self.activation(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(x if self.shortcut_of_input else activated)
        residual: Tensor = self.conv2(self.activation(self.bn2(self.conv1(activated))))
        return kept + residual


class PreActivationResNet(nn.Module):
    """A 3×3 stem, stages of pre-activation blocks that each halve the image but the first, global average pooling.

    Images of any size; convolutions start as He et al. 2015 (normal, fan-out), the classifier's bias at zero.

    Args:
        widths: channels of the stem, then of every stage.
        depth: blocks a stage.
        normalize: what images pass first; by default CIFAR-10's mean and standard deviation.
        as_wong: shortcuts of the input and torch's initialisation, as in the code of Wong et al. 2020.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int],
        depth: int,
        activation: Activation,
        normalize: Normalize | None = None,
        as_wong: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize or normalize_cifar(channels)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        strides = (1, *[2] * (len(widths) - 2))
        self.stages = nn.Sequential(
            *(
                _stage(inputs, outputs, stride, depth, activation, as_wong)
                for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True)
            )
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.activation = activation()
        self.linear = nn.Linear(widths[-1], classes)
        if not as_wong:
            self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W] in [0, 1]; returns logits [N, classes]."""
        features: Tensor = self.activation(self.bn(self.stages(self.stem(self.normalize(x)))))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def preact_resnet_18(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """He et al. 2016, with the stem for CIFAR: four stages of two blocks, 64 to 512 channels.

    Many public copies lack the paper's last batch norm: they have 1,024 weights fewer.
    """
    return PreActivationResNet(shape[0], classes, widths=(64, 64, 128, 256, 512), depth=2, activation=nn.ReLU)


def preact_resnet_18_wong(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The same in the form of Wong et al. 2020: 1×1 shortcuts of a block's input, torch's own initialisation."""
    widths = (64, 64, 128, 256, 512)
    return PreActivationResNet(shape[0], classes, widths=widths, depth=2, activation=nn.ReLU, as_wong=True)


def wide_resnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    depth: int,
    width: int,
    activation: Activation = nn.ReLU,
    normalize: Normalize | None = None,
) -> nn.Module:
    """WRN-depth-width of Zagoruyko & Komodakis 2016: (depth − 4) / 6 blocks in each of three stages.

    TRADES and MART train on images as they are in [0, 1]; here they are normalised, as by Gowal et al. 2020
    (arXiv:2010.03593) and Wang et al. 2023 (arXiv:2302.04638). With nn.SiLU it has the activation of those two, not
    their asymmetric padding before a stride or their batch-norm momentum of 0.01.

    Raises:
        ValueError: depth is not 6n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth = {depth}, but a wide ResNet has depth 6n + 4 with n ≥ 1: 10, 16, 22, 28, 34, 40, ...")
    widths = (16, 16 * width, 32 * width, 64 * width)
    return PreActivationResNet(
        shape[0], classes, widths=widths, depth=blocks, activation=activation, normalize=normalize
    )


def wrn_28_10(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """36.5 million weights."""
    return wide_resnet(shape, classes, depth=28, width=10)


def wrn_28_10_silu(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The same with nn.SiLU, as Gowal et al. 2020 and Wang et al. 2023 train it."""
    return wide_resnet(shape, classes, depth=28, width=10, activation=nn.SiLU)


def wrn_34_10(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """46.2 million weights: TRADES' network."""
    return wide_resnet(shape, classes, depth=34, width=10)


def wrn_40_2(shape: tuple[int, int, int], classes: int, *, centred: bool = False) -> nn.Module:
    """2.2 million weights. `centred`: mean and standard deviation are 0.5, as in AugMix's code."""
    return wide_resnet(shape, classes, depth=40, width=2, normalize=Normalize(0.5, 0.5) if centred else None)


def resnet_50(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's ResNet-50, from scratch, behind ImageNet's mean and standard deviation.

    Raises:
        ValueError: the images are not of three channels.
    """
    if shape[0] != 3:
        raise ValueError(f"resnet-50 takes images of 3 channels, not {shape[0]}")
    network: nn.Module = torchvision().models.resnet50(weights=None, num_classes=classes)
    return nn.Sequential(OrderedDict(normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD), resnet=network))


def _stage(
    inputs: int, outputs: int, stride: int, depth: int, activation: Activation, shortcut_of_input: bool
) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride, activation, shortcut_of_input)
    return nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1, activation) for _ in range(depth - 1)))
