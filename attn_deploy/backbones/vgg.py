"""VGG-16 with BatchNorm, with slots.

Paper: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556.
Official: none with BatchNorm; names follow torchvision, whose state dicts load as they are (stem=imagenet). The CIFAR form
    has one linear layer after global pooling, as the common CIFAR collections have it.
Export: the ImageNet form pools to 7x7 by constant averaging matrices, the CIFAR form by x.mean((2, 3)); both take any
    height and width from 32.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.backbones.blocks import BACKBONE, CIFAR, STEMS, classify, init_convs
from attn_deploy.backbones.slots import Filler, Slots
from attn_deploy.ops import adaptive_avg_pool2d, check_channels, require_choice, require_positive
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
class VGG16(nn.Module):
    """Plain network of 13 convolutions, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W from 32.

    Args:
        num_classes: width of the classifier.
        stem: ``cifar``, with one linear layer, or ``imagenet``, with three.
        slot: fills the places of its kind: after the last activation of every block, for every 3x3 convolution but the
            first, or before the classifier.
        slot_stage: fill the places of this stage alone: block1 to block5.

    Raises:
        ValueError: if the stem or the stage is unknown, num_classes < 1, or the slot cannot be filled.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        stem: str = "cifar",
        slot: Filler | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__()
        require_choice("stem", stem, STEMS)
        require_positive(num_classes=num_classes)
        slots = Slots("vgg16_bn", slot, slot_stage, {f"block{i + 1}": 2**i for i in range(5)})
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
        self.imagenet = stem == "imagenet"
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
        slots.require_filled()
        self.slot_stride = slots.stride
        init_convs(self, slots.modules)

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
