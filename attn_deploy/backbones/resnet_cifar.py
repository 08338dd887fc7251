"""The small residual networks of the paper's CIFAR-10 experiments, with slots.

Paper: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2.
Official: described in the paper: three stages of 16, 32 and 64 channels, shortcuts of option A (every second pixel, zeros
    for the new channels), 6n + 2 layers: 0.27 M parameters for 20.
Export: the shortcut is a strided slice and a concatenation with zero channels made by Pad.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.backbones.blocks import BACKBONE, classify, fold_pairs, init_convs
from attn_deploy.backbones.slots import Filler, Slots
from attn_deploy.ops import Fusible, check_channels, require_positive
from attn_deploy.registry import register

WIDTHS = (16, 32, 64)


class CifarBlock(nn.Module, Fusible):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, in_channels: int, width: int, stride: int, slots: Slots, stage: str) -> None:
        super().__init__()
        self.conv1 = slots.convolution(stage, in_channels, width, stride, activated=True)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = slots.convolution(stage, width, width, activated=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.slot = slots.attention(stage, width)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.added = width - in_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.added:
            before = self.added // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.added - before))
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(self.slot(branch) + shortcut)
        return out

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "bn1"), ("conv2", "bn2")))


@register(
    "resnet8",
    reference={"blocks": 1, "num_classes": 10},
    parameters=75_290,
    summary="Residual network of 8 layers for small images and small budgets, with slots.",
    **BACKBONE,
)
@register(
    "resnet20",
    reference={"blocks": 3, "num_classes": 10},
    parameters=269_722,
    summary="Residual network of 20 layers for small images, with slots.",
    **BACKBONE,
)
class CifarResNet(nn.Module, Fusible):
    """Residual network of three stages of 16, 32 and 64 channels.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        blocks: blocks in each stage: 1 for 8 layers, 3 for 20, 9 for 56.
        num_classes: width of the classifier.
        slot: fills the places of its kind: after the last BatchNorm of every block, for every 3x3 convolution of the
            blocks, or before the classifier.
        slot_stage: fill the places of this stage alone: layer1 to layer3.

    Raises:
        ValueError: if the stage is unknown, a count is below 1, or the slot cannot be filled.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        blocks: int = 1,
        *,
        num_classes: int = 10,
        slot: Filler | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__()
        require_positive(blocks=blocks, num_classes=num_classes)
        slots = Slots(f"resnet{6 * blocks + 2}", slot, slot_stage, {f"layer{i + 1}": 2**i for i in range(3)})
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        channels = WIDTHS[0]
        for index, width in enumerate(WIDTHS):
            stage, units = f"layer{index + 1}", []
            for position in range(blocks):
                stride = 2 if index > 0 and position == 0 else 1
                units.append(CifarBlock(channels, width, stride, slots, stage))
                channels = width
            self.add_module(stage, nn.Sequential(*units))
        self.context, channels = slots.context(channels)
        self.fc = nn.Linear(channels, num_classes)
        slots.require_filled()
        self.slot_stride = slots.stride
        init_convs(self, slots.modules)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return classify(self.context(x), self.fc)

    def fuse_(self) -> str | None:
        return fold_pairs(self, (("conv1", "bn1"),))
