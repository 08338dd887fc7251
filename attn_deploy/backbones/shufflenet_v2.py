"""ShuffleNetV2 at width 1, with slots.

Paper: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018, arXiv:1807.11164.
Official: megvii-model/ShuffleNet-Series, ShuffleNetV2; names follow torchvision, whose state dicts load as they are
    (stem=imagenet).
Export: the shuffle of two halves is a reshape with a known group count; pooling is x.mean((2, 3)).
Limits: its 3x3 convolutions are depthwise, so convolution modules have no place in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, conv_bn
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import check_channels
from attn_deploy.registry import register

STAGES = (("stage2", 116, 4), ("stage3", 232, 8), ("stage4", 464, 4))
FIRST, LAST = 24, 1024


class ShuffleUnit(nn.Module):
    """Works on half of the channels (on all, twice, where it halves the map), then interleaves the halves."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__()
        half = out_channels // 2
        self.splits = stride == 1
        self.channels = half
        width = half if self.splits else in_channels
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_bn(width, width, 3, stride=stride, groups=width),
                *conv_bn(width, half, activation=nn.ReLU(inplace=True)),
            )
        self.branch2 = nn.Sequential(
            *conv_bn(width, half, activation=nn.ReLU(inplace=True)),
            *conv_bn(half, half, 3, stride=stride, groups=half),
            *conv_bn(half, half, activation=nn.ReLU(inplace=True)),
        )
        self.slot = slots.attention(stage, half)

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, : self.channels] if self.splits else self.branch1(x)
        worked = self.slot(self.branch2(x[:, self.channels :] if self.splits else x))
        pairs = torch.stack((kept, worked), dim=2)
        return pairs.flatten(1, 2)


@register(
    "shufflenet_v2",
    aliases=("shufflenetv2", "shufflenet_v2_x1_0"),
    reference=CIFAR,
    parameters=1_263_854,
    **BACKBONE,
)
class ShuffleNetV2(Backbone):
    """Network of shuffle units at width 1, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, the same with stride 2 and a max pool.
        slot: an attention module at the end of each unit's branch, or a context module before the classifier.
        slot_stage: fill the places of this stage alone: stage2 to stage4.
    """

    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    title = "shufflenet_v2"
    dense = False

    def strides(self, cifar: bool) -> Mapping[str, int]:
        first = 1 if cifar else 4
        return {stage: first * 2 ** (i + 1) for i, (stage, _, _) in enumerate(STAGES)}

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        self.conv1 = conv_bn(3, FIRST, 3, stride=1 if cifar else 2, activation=nn.ReLU(inplace=True))
        self.maxpool: nn.Module = nn.Identity() if cifar else nn.MaxPool2d(3, stride=2, padding=1)
        channels = FIRST
        for stage, width, count in STAGES:
            units = []
            for position in range(count):
                units.append(ShuffleUnit(channels, width, 2 if position == 0 else 1, slots, stage))
                channels = width
            self.add_module(stage, nn.Sequential(*units))
        self.conv5 = conv_bn(channels, LAST, activation=nn.ReLU(inplace=True))
        self.context, channels = slots.context(LAST)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return classify(self.context(self.conv5(x)), self.fc)
