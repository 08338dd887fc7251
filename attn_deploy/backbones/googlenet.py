"""GoogLeNet with BatchNorm, with slots.

Paper: Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842.
Official: none in PyTorch; names follow torchvision, whose state dicts load as they are (stem=imagenet; the auxiliary
    classifiers in them are left out, and their weights expect images normalised by mean 0.5 and deviation 0.5). The CIFAR
    form is the one of the common CIFAR collections: a 3x3 stem of 192 channels, biased convolutions, and two 3x3 where
    torchvision has one in place of the paper's 5x5.
Export: the classifier's pooling is x.mean((2, 3)), so the network takes any height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone, halving
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, fold_pairs, ignore_keys
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import Fusible, check_channels
from attn_deploy.registry import register

# Channels: given, 1x1, before 3x3, 3x3, before 5x5, 5x5, after the pool.
BLOCKS = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
LAST = 1024


class ConvUnit(nn.Module, Fusible):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, conv: nn.Module, channels: int, eps: float) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(channels, eps=eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv", "bn"),))


class Inception(nn.Module):
    """Four branches side by side: 1x1; 3x3; a larger window; a max pool; then the slot."""

    def __init__(self, channels: tuple[int, ...], cifar: bool, slots: Slots, stage: str) -> None:
        super().__init__()
        in_channels, one, before_three, three, before_five, five, pooled = channels
        eps = 1e-5 if cifar else 1e-3

        def point(in_channels: int, out_channels: int) -> ConvUnit:
            return ConvUnit(nn.Conv2d(in_channels, out_channels, 1, bias=cifar), out_channels, eps)

        def window(in_channels: int, out_channels: int) -> ConvUnit:
            convolution = slots.convolution(stage, in_channels, out_channels, bias=cifar, activated=True)
            return ConvUnit(convolution, out_channels, eps)

        self.branch1 = point(in_channels, one)
        self.branch2 = nn.Sequential(point(in_channels, before_three), window(before_three, three))
        second = [window(five, five)] if cifar else []
        self.branch3 = nn.Sequential(point(in_channels, before_five), window(before_five, five), *second)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), point(in_channels, pooled))
        self.slot = slots.attention(stage, one + three + five + pooled)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.slot(torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1))
        return out


@register(
    "googlenet",
    reference=CIFAR,
    parameters=6_166_250,
    **BACKBONE,
)
class GoogLeNet(Backbone):
    """Network of inception blocks with BatchNorm, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, three convolutions and two max pools that reduce by 8.
        slot: fills the places of its kind: after every inception block, for the 3x3 convolutions in the blocks, or
            before the classifier.
        slot_stage: fill the places of this stage alone: inception3 to inception5.
    """

    title = "googlenet"

    def strides(self, cifar: bool) -> Mapping[str, int]:
        return halving("inception", 1 if cifar else 8, 3, start=3)

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        if cifar:
            self.stem: nn.Module = ConvUnit(nn.Conv2d(3, 192, 3, padding=1), 192, 1e-5)
        else:
            self.conv1 = ConvUnit(nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), 64, 1e-3)
            self.conv2 = ConvUnit(nn.Conv2d(64, 64, 1, bias=False), 64, 1e-3)
            self.conv3 = ConvUnit(nn.Conv2d(64, 192, 3, padding=1, bias=False), 192, 1e-3)
        self.cifar = cifar
        for name, channels in BLOCKS.items():
            self.add_module(name, Inception(channels, cifar, slots, name[:-1]))
        self.halve = nn.MaxPool2d(3, stride=2, padding=1) if cifar else nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.halve_last = nn.MaxPool2d(3, stride=2, padding=1) if cifar else nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.context, width = slots.context(LAST)
        self.dropout = nn.Dropout(0.0 if cifar else 0.2)
        self.fc = nn.Linear(width, num_classes)
        ignore_keys(self, "aux1.", "aux2.")

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.stem(x) if self.cifar else self.halve(self.conv3(self.conv2(self.halve(self.conv1(x)))))
        for name in BLOCKS:
            if name == "inception4a":
                x = self.halve(x)
            elif name == "inception5a":
                x = self.halve_last(x)
            x = getattr(self, name)(x)
        return classify(self.dropout(self.context(x)), self.fc)
