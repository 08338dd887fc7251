"""MobileNetV2, with slots.

Paper: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381.
Official: tensorflow/models, slim/nets/mobilenet; names follow torchvision, whose state dicts load as they are
    (stem=imagenet). The CIFAR form is the one of the common CIFAR collections: strides of 1 early on, an expansion in
    the first block too, and a projected shortcut where the width changes at stride 1.
Export: the classifier's pooling is x.mean((2, 3)), so the network takes any height and width.
Limits: its 3x3 convolutions are depthwise, so convolution modules have no place in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify, conv_bn
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import check_channels
from attn_deploy.registry import register

# Expansion, width, blocks, and stride with the ImageNet stem and with the CIFAR stem.
STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)
LAST = 1280


def _activation(cifar: bool) -> nn.Module:
    return nn.ReLU(inplace=True) if cifar else nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection, the slot, and the sum where the sizes allow it."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, slots: Slots, stage: str, cifar: bool
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1 or cifar:
            layers.append(conv_bn(in_channels, hidden, activation=_activation(cifar)))
        layers.append(
            conv_bn(
                hidden,
                hidden,
                3,
                stride=stride,
                groups=hidden,
                activation=_activation(cifar),
            )
        )
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.slot = slots.attention(stage, out_channels)
        self.adds = stride == 1 and (cifar or in_channels == out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if self.adds and in_channels != out_channels:
            self.shortcut = conv_bn(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.slot(self.conv(x))
        return branch + self.shortcut(x) if self.adds else branch


@register(
    "mobilenet_v2",
    aliases=("mobilenetv2",),
    reference=CIFAR,
    parameters=2_296_922,
    **BACKBONE,
)
class MobileNetV2(Backbone):
    """Network of inverted residuals, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, which reduces the image by 8, or ``imagenet``, by 32.
        slot: an attention module after the projection of every block, or a context module before the classifier.
        slot_stage: fill the places of this stage alone: stage1 to stage7.
    """

    title = "mobilenet_v2"
    dense = False

    def strides(self, cifar: bool) -> Mapping[str, int]:
        reach, strides = 1 if cifar else 2, {}
        for index, (_, _, _, imagenet_stride, cifar_stride) in enumerate(STAGES):
            reach *= cifar_stride if cifar else imagenet_stride
            strides[f"stage{index + 1}"] = reach
        return strides

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        layers: list[nn.Module] = [
            conv_bn(
                3,
                32,
                3,
                stride=1 if cifar else 2,
                activation=_activation(cifar),
            )
        ]
        channels = 32
        for index, (expansion, width, blocks, imagenet_stride, cifar_stride) in enumerate(STAGES):
            for position in range(blocks):
                stride = (cifar_stride if cifar else imagenet_stride) if position == 0 else 1
                layers.append(InvertedResidual(channels, width, stride, expansion, slots, f"stage{index + 1}", cifar))
                channels = width
        layers.append(conv_bn(channels, LAST, activation=_activation(cifar)))
        self.features = nn.Sequential(*layers)
        self.context, channels = slots.context(LAST)
        self.classifier = nn.Sequential(nn.Dropout(0.0 if cifar else 0.2), nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        return classify(self.context(self.features(x)), self.classifier)
