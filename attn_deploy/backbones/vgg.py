"""VGG-16 with BatchNorm, with slots.

Paper: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556.
Official: none with BatchNorm; names follow torchvision, whose state dicts load as they are (stem=imagenet). The CIFAR form
    has one linear layer after global pooling, as the common CIFAR collections have it.
Export: the ImageNet form pools to 7x7 by constant averaging matrices, the CIFAR form by x.mean((2, 3)); both take any
    height and width from 32.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from attn_deploy.backbones.backbone import Backbone, halving
from attn_deploy.backbones.blocks import BACKBONE, CIFAR, classify
from attn_deploy.backbones.slots import Slots
from attn_deploy.ops import adaptive_avg_pool2d, check_channels
from attn_deploy.registry import register

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
POOLED, HIDDEN = 7, 4096


@register(
    "vgg16_bn",
    aliases=("vgg16",),
    reference=CIFAR,
    parameters=14_728_266,
    minimum={"H": 32, "W": 32},
    **{**BACKBONE, "sizes": {"H": 35, "W": 66}},
)
class VGG16(Backbone):
    """Plain network of 13 convolutions, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W from 32.

    Args:
        num_classes: as every `Backbone`'s.
        stem: ``cifar``, with one linear layer, or ``imagenet``, with three.
        slot: fills the places of its kind: after the last activation of every block, for every 3x3 convolution but the
            first, or before the classifier.
        slot_stage: fill the places of this stage alone: block1 to block5.
    """

    title = "vgg16_bn"

    def strides(self, cifar: bool) -> Mapping[str, int]:
        return halving("block", 1, 5)

    def build(self, slots: Slots, num_classes: int, cifar: bool) -> None:
        features: list[nn.Module] = []
        places: list[tuple[str, nn.Module]] = []
        channels = 3
        for index, (width, depth) in enumerate(BLOCKS):
            stage = f"block{index + 1}"
            for _ in range(depth):
                if channels == 3:
                    conv: nn.Module = nn.Conv2d(3, width, 3, padding=1)
                else:
                    conv = slots.convolution(stage, channels, width, bias=True, activated=True)
                features += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            places.append((str(len(features)), slots.attention(stage, width)))
            features.append(nn.MaxPool2d(2, stride=2))
        self.features = nn.Sequential(*features)
        self.slots = nn.ModuleDict(dict(places))  # by the index of the layer that they stand before
        self.context, channels = slots.context(channels)
        self.imagenet = not cifar
        if self.imagenet:
            self.classifier: nn.Module = nn.Sequential(
                nn.Linear(channels * POOLED * POOLED, HIDDEN),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(HIDDEN, num_classes),
            )
        else:
            self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        for index, layer in self.features.named_children():
            if index in self.slots:
                x = self.slots[index](x)
            x = layer(x)
        x = self.context(x)
        if not self.imagenet:
            return classify(x, self.classifier)
        logits: Tensor = self.classifier(adaptive_avg_pool2d(x, POOLED).flatten(1))
        return logits
