"""The squeeze-and-excitation network of 18 layers that CIFAR comparisons use: pre-activation blocks with SE in each.

Paper: Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507; pre-activation: arXiv:1603.05027.
Official: hujie-frank/SENet (Caffe) has no CIFAR network; the block is the widely used one with fc1 and fc2 as 1x1
    convolutions at a reduction of 16, and a shortcut convolution without BatchNorm.
Export: pooling is x.mean((2, 3), keepdim=True), so the network takes any height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone, halving
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, fold_pairs, large_stem
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import Fusible, check_channels
from attn_deploy.registry import register

DEPTHS = (2, 2, 2, 2)


class PreActBlock(nn.Module, Fusible):
    """BatchNorm and ReLU before each 3x3 convolution, squeeze and excitation, the slot, and the sum."""

    def __init__(self, in_channels: int, width: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = slots.convolution(stage, in_channels, width, stride, activated=True)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = slots.convolution(stage, width, width, activated=False)
        self.fc1 = nn.Conv2d(width, width // 16, 1)
        self.fc2 = nn.Conv2d(width // 16, width, 1)
        self.slot = slots.attention(stage, width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if stride != 1 or in_channels != width:
            self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(normed)
        branch = self.conv2(self.relu(self.bn2(self.conv1(normed))))
        gate = self.fc2(self.relu(self.fc1(branch.mean((2, 3), keepdim=True)))).sigmoid()
        out: Tensor = self.slot(branch * gate) + shortcut
        return out

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "bn2"),))


@register(
    "senet18",
    reference=CIFAR,
    parameters=11_260_354,
    **BACKBONE,
)
class SENet18(Backbone, Fusible):
    """Pre-activation residual network of 18 layers with squeeze and excitation, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: fills the places of its kind: after each block's own SE, for every 3x3 convolution of the blocks, or
            before the classifier.
        slot_stage: fill the places of this stage alone: layer1 to layer4.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    title = "senet18"

    def strides(self, cifar: bool) -> Mapping[str, int]:
        return halving("layer", 1 if cifar else 4, 4)

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        self.conv1, self.maxpool = large_stem(64, cifar)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        channels = 64
        for index, depth in enumerate(DEPTHS):
            width, stage, blocks = 64 * 2**index, f"layer{index + 1}", []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(PreActBlock(channels, width, stride, slots, stage))
                channels = width
            self.add_module(stage, nn.Sequential(*blocks))
        self.context, channels = slots.context(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return classify(self.context(x), self.linear)

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "bn1"),))
