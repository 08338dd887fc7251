"""EfficientNet-B0, with slots.

Paper: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946.
Official: tensorflow/tpu, models/official/efficientnet; names follow torchvision, whose state dicts load as they are
    (stem=imagenet). The CIFAR form is the same network with a stem of stride 1.
Export: squeeze and excitation pool by x.mean((2, 3), keepdim=True), so the network takes any height and width.
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

# Expansion, kernel, stride, width, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
FIRST, LAST = 32, 1280
DROP_PATH = 0.2  # of the last block; it grows from 0 with the depth


class SqueezeExcite(nn.Module):
    """The gate inside a block."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.fc2(self.activation(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return out


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze and excitation, 1x1 projection, the slot, and the sum."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        drop_path: float,
        slot: nn.Module,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [conv_bn(in_channels, hidden, activation=nn.SiLU())] if expansion != 1 else []
        layers += [
            conv_bn(hidden, hidden, kernel_size, stride=stride, groups=hidden, activation=nn.SiLU()),
            SqueezeExcite(hidden, max(1, in_channels // 4)),
            conv_bn(hidden, out_channels),
        ]
        self.block = nn.Sequential(*layers)
        self.slot = slot
        self.adds = stride == 1 and in_channels == out_channels
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.slot(self.block(x))
        if not self.adds:
            return branch
        if self.training and self.drop_path > 0:
            kept = torch.rand((len(branch), 1, 1, 1), device=branch.device) >= self.drop_path
            branch = branch * kept / (1 - self.drop_path)
        return branch + x


@register(
    "efficientnet_b0",
    aliases=("efficientnetb0",),
    reference=CIFAR,
    parameters=4_020_358,
    **BACKBONE,
)
class EfficientNetB0(Backbone):
    """Network of inverted residuals with squeeze and excitation, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, a stem of stride 1, or ``imagenet``, of stride 2.
        slot: an attention module after the projection of every block, or a context module before the classifier.
        slot_stage: fill the places of this stage alone: stage1 to stage7.
    """

    title = "efficientnet_b0"
    dense = False

    def strides(self, cifar: bool) -> Mapping[str, int]:
        reach, strides = 1 if cifar else 2, {}
        for index, (_, _, stride, _, _) in enumerate(STAGES):
            reach *= stride
            strides[f"stage{index + 1}"] = reach
        return strides

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        layers: list[nn.Module] = [conv_bn(3, FIRST, 3, stride=1 if cifar else 2, activation=nn.SiLU())]
        total, depth, channels = sum(s[4] for s in STAGES), 0, FIRST
        for index, (expansion, kernel_size, first_stride, width, count) in enumerate(STAGES):
            blocks = []
            for position in range(count):
                stride = first_stride if position == 0 else 1
                place = slots.attention(f"stage{index + 1}", width)
                blocks.append(MBConv(channels, width, kernel_size, stride, expansion, DROP_PATH * depth / total, place))
                channels, depth = width, depth + 1
            layers.append(nn.Sequential(*blocks))
        layers.append(conv_bn(channels, LAST, activation=nn.SiLU()))
        self.features = nn.Sequential(*layers)
        self.context, channels = slots.context(LAST)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        return classify(self.context(self.features(x)), self.classifier)
