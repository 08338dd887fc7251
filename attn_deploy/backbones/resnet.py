"""Residual networks, with slots.

Paper: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
Official: KaimingHe/deep-residual-networks (Caffe); names and the strided 3x3 of the bottleneck follow torchvision, whose
    state dicts load as they are (stem=imagenet).
Export: the classifier's pooling is x.mean((2, 3)), so the network takes any height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone, halving
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, fold_pairs, large_stem
from attn_deploy.backbones.slots import Filler, Slots
from attn_deploy.ops import Fusible, check_channels, require_positive
from attn_deploy.registry import register


class ResidualBlock(nn.Module, Fusible):
    """What both kinds of block share: a shortcut, a slot, and folding of every conv+BN pair."""

    expansion = 1
    pairs: tuple[tuple[str, str], ...] = ()

    def __init__(self, in_channels: int, width: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.slot = slots.attention(stage, out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define branch")

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.slot(self.branch(x)) + shortcut)
        return out

    def fuse_(self) -> str | None:
        return fold_pairs(self, self.pairs)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; ResNet-18 and 34."""

    pairs = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, width: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__(in_channels, width, stride, slots, stage)
        self.conv1 = slots.convolution(stage, in_channels, width, stride, activated=True)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = slots.convolution(stage, width, width, activated=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(x))
        return out


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; ResNet-50."""

    expansion = 4
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__(in_channels, width, stride, slots, stage)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = slots.convolution(stage, width, width, stride, activated=True)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.bn3(self.conv3(x))
        return out


@register(
    "resnet18",
    reference={"depths": (2, 2, 2, 2), **CIFAR},
    parameters=11_173_962,
    summary="Residual network of 18 layers, with slots.",
    **BACKBONE,
)
@register(
    "resnet34",
    reference={"depths": (3, 4, 6, 3), **CIFAR},
    parameters=21_282_122,
    summary="Residual network of 34 layers, with slots.",
    **BACKBONE,
)
@register(
    "resnet50",
    reference={"depths": (3, 4, 6, 3), "bottleneck": True, **CIFAR},
    parameters=23_520_842,
    summary="Residual network of 50 layers with bottleneck blocks, with slots.",
    **BACKBONE,
)
class ResNet(Backbone, Fusible):
    """Residual network of four stages.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        depths: blocks in each of the four stages.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions in place of two 3x3.
        num_classes: width of the classifier.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: fills the places of its kind: after the last BatchNorm of every block, for every 3x3 convolution of the
            blocks, or before the classifier.
        slot_stage: fill the places of this stage alone: layer1 to layer4.

    Raises:
        ValueError: if the stem or the stage is unknown, a count is below 1, or the slot cannot be filled.
    """

    title = "resnet"
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        *,
        bottleneck: bool = False,
        num_classes: int = 10,
        stem: str = "cifar",
        slot: Filler | None = None,
        slot_stage: str | None = None,
    ) -> None:
        require_positive(**{f"depths[{i}]": d for i, d in enumerate(depths)})
        if len(depths) != 4:
            raise ValueError(f"depths must give the blocks of four stages, got {depths}.")
        self.depths, self.bottleneck = depths, bottleneck  # before the shared constructor, which builds from them
        super().__init__(num_classes=num_classes, stem=stem, slot=slot, slot_stage=slot_stage)

    def strides(self, cifar: bool) -> Mapping[str, int]:
        return halving("layer", 1 if cifar else 4, 4)

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        self.conv1, self.maxpool = large_stem(64, cifar)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        block = Bottleneck if self.bottleneck else BasicBlock
        channels = 64
        for index, depth in enumerate(self.depths):
            width, stage = 64 * 2**index, f"layer{index + 1}"
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, slots, stage))
                channels = width * block.expansion
            self.add_module(stage, nn.Sequential(*blocks))
        self.context, channels = slots.context(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return classify(self.context(x), self.fc)

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "bn1"),))
