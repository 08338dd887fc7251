"""DenseNet-121, with slots.

Paper: Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993.
Official: liuzhuang13/DenseNet (Lua Torch); names follow torchvision, whose state dicts load as they are (stem=imagenet).
    The CIFAR form has a 3x3 stem convolution without BatchNorm, as the common CIFAR collections have it.
Export: the classifier's pooling is x.mean((2, 3)), so the network takes any height and width from 32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone, halving
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, fold_pairs
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import Fusible, check_channels
from attn_deploy.registry import register

DEPTHS = (6, 12, 24, 16)
GROWTH, FIRST, BOTTLENECK = 32, 64, 4


class DenseLayer(nn.Module, Fusible):
    """Adds 32 channels to what all layers before it have made."""

    def __init__(self, in_channels: int, slots: Slots, stage: str) -> None:
        super().__init__()
        hidden = BOTTLENECK * GROWTH
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = slots.convolution(stage, hidden, GROWTH, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat((x, self.conv2(self.relu2(self.norm2(hidden)))), 1)

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "norm2"),))


class Transition(nn.Sequential):
    """Halves the channels and the map."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                norm=nn.BatchNorm2d(in_channels),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
                pool=nn.AvgPool2d(2, stride=2),
            )
        )


@register(
    "densenet121",
    reference=CIFAR,
    parameters=6_956_298,
    minimum={"H": 32, "W": 32},
    **{**BACKBONE, "sizes": {"H": 35, "W": 42}},
)
class DenseNet121(Backbone):
    """Densely connected network of 121 layers, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W from 32.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: fills the places of its kind: after every dense block, for the 3x3 convolutions of its layers, or before
            the classifier.
        slot_stage: fill the places of this stage alone: denseblock1 to denseblock4.
    """

    title = "densenet121"

    def strides(self, cifar: bool) -> Mapping[str, int]:
        return halving("denseblock", 1 if cifar else 4, 4)

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        layers: dict[str, nn.Module] = {}
        if cifar:
            layers["conv0"] = nn.Conv2d(3, FIRST, 3, padding=1, bias=False)
        else:
            layers["conv0"] = nn.Conv2d(3, FIRST, 7, stride=2, padding=3, bias=False)
            layers["norm0"], layers["relu0"] = nn.BatchNorm2d(FIRST), nn.ReLU(inplace=True)
            layers["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        channels = FIRST
        for index, depth in enumerate(DEPTHS):
            stage = f"denseblock{index + 1}"
            block: OrderedDict[str, nn.Module] = OrderedDict(
                (f"denselayer{i + 1}", DenseLayer(channels + i * GROWTH, slots, stage)) for i in range(depth)
            )
            layers[stage] = nn.Sequential(block)
            channels += depth * GROWTH
            layers[f"slot{index + 1}"] = slots.attention(stage, channels)
            if index < len(DEPTHS) - 1:
                layers[f"transition{index + 1}"] = Transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(OrderedDict(layers))
        self.relu = nn.ReLU(inplace=True)
        self.context, channels = slots.context(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        return classify(self.context(self.relu(self.features(x))), self.classifier)
