"""Detectors made of the zoo's blocks: YOLOv8 and YOLO11 of size n, from the image to boxes, with slots.

Paper: none of their own; YOLOv8, 2023, and YOLO11, 2024, by Ultralytics, https://docs.ultralytics.com/models.
Official: ultralytics 8.4, cfg/models/v8/yolov8.yaml and cfg/models/11/yolo11.yaml at scale n; load_official_state_dict
    takes their state dicts. The fixed weights 0 to 15 of the official distribution layer are a constant here.
Export: boxes are decoded level by level with grids computed in the graph, so no anchors are baked for one image size.
    Equal up to rounding. Fusing folds every BatchNorm.
Deviations: no non-maximum suppression, as in the official export by default. In training mode, and with decode=False, the
    outputs are the raw maps of the three levels.
Limits: H and W are multiples of 32. In fp16 box positions beyond 512 pixels are rounded to half a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.backbones.slots import Filler, Slots
from attn_deploy.backbones.yolo_head import DetectionHead
from attn_deploy.modules.attention.c2psa import C2PSA
from attn_deploy.modules.context.spp import SPPF
from attn_deploy.modules.convolution.c2f import C2f
from attn_deploy.modules.convolution.c3k2 import C3k2
from attn_deploy.ops import ConvNormAct, check_channels, require_positive
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import Input, register

STRIDE = 32
STRIDES = (8, 16, 32)
STAGES = {"stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32, "neck": 32}
WIDTHS = (16, 32, 64, 128, 256)
EPS, MOMENTUM = 1e-3, 0.03  # of every BatchNorm, as the official networks set them

Block = Callable[[int, int, int], nn.Module]  # number in the official list, channels in, channels out

_SETTINGS: dict[str, Any] = {
    "inputs": (Input("image", ("N", 3, "H", "W")),),
    "outputs": ("predictions",),
    "sizes": {"H": 64, "W": 96},
    "multiple": {"H": STRIDE, "W": STRIDE},
    "reference": {"num_classes": 80},
}


class _Stage(nn.Module):
    """A strided convolution, a block, and the slot after it."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, block: nn.Module, slots: Slots, stage: str
    ) -> None:
        super().__init__()
        self.down = ConvNormAct(in_channels, width, 3, stride=2)
        self.block = _filled(block, slots, stage)
        self.slot = slots.attention(stage, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.slot(self.block(self.down(x)))
        return out


class _Neck(nn.Module):
    """Down the pyramid and up again; every level is joined by concatenation and sent through a block and its slot."""

    def __init__(self, widths: tuple[int, int, int], block: Block, numbers: tuple[int, ...], slots: Slots) -> None:
        super().__init__()
        p3, p4, p5 = widths
        out3, out4, out5 = WIDTHS[2:]

        def joined(number: int, in_channels: int, out_channels: int) -> nn.Module:
            layer = _filled(block(number, in_channels, out_channels), slots, "neck")
            return nn.Sequential(layer, slots.attention("neck", out_channels))

        self.block4 = joined(numbers[0], p5 + p4, out4)
        self.block3 = joined(numbers[1], out4 + p3, out3)
        self.down4 = ConvNormAct(out3, out3, 3, stride=2)
        self.out4 = joined(numbers[2], out3 + out4, out4)
        self.down5 = ConvNormAct(out4, out4, 3, stride=2)
        self.out5 = joined(numbers[3], out4 + p5, out5)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle = self.block4(torch.cat((_doubled(p5), p4), 1))
        fine = self.block3(torch.cat((_doubled(middle), p3), 1))
        out4 = self.out4(torch.cat((self.down4(fine), middle), 1))
        return fine, out4, self.out5(torch.cat((self.down5(out4), p5), 1))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _filled(block: nn.Module, slots: Slots, stage: str) -> nn.Module:
    """The block with whatever takes the place of its dense 3x3 convolutions."""
    for layer in list(block.modules()):
        if isinstance(layer, ConvNormAct) and layer.conv.kernel_size == (3, 3) and layer.conv.groups == 1:
            place = slots.convolution(stage, layer.conv.in_channels, layer.conv.out_channels, activated=True)
            setattr(layer, "conv", place)  # noqa: B010  # a module of the slot's, where a Conv2d was declared
    return block


class _Detector(nn.Module):
    """What both networks share; they differ in their blocks, in attention after the pyramid pooling, and in the head."""

    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module
    stage5: nn.Module
    neck_blocks: tuple[int, int, int, int]  # their numbers in the official list of layers
    separable = False

    def __init__(
        self,
        *,
        num_classes: int = 80,
        decode: bool = True,
        slot: Filler | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes)
        slots = Slots(type(self).__name__.lower(), slot, slot_stage, STAGES)
        self.stem = ConvNormAct(3, WIDTHS[0], 3, stride=2)
        channels, levels = WIDTHS[0], []
        for index, stage in enumerate(list(STAGES)[:-1]):
            width, out_channels = WIDTHS[index + 1], self._width(index)
            block = self._block(2 * index + 2, width, out_channels)
            self.add_module(stage, _Stage(channels, width, out_channels, block, slots, stage))
            channels = out_channels
            levels.append(out_channels)
        self.sppf = SPPF(channels, channels)
        self.attention = self._attention(channels)
        self.context, channels = slots.context(channels)
        self.neck = _Neck((levels[1], levels[2], channels), self._block, self.neck_blocks, slots)
        self.head = DetectionHead(WIDTHS[2:], STRIDES, num_classes, separable=self.separable, decode=decode)
        slots.require_filled()
        self.slot_stride = slots.stride
        foreign = {id(m) for module in slots.modules for m in module.modules()}
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and id(module) not in foreign:
                module.eps, module.momentum = EPS, MOMENTUM

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_channels(x, 3, type(self).__name__)
        require_multiple_size(x, STRIDE, type(self).__name__)
        p3 = self.stage3(self.stage2(self.stem(x)))
        p4 = self.stage4(p3)
        p5 = self.context(self.attention(self.sppf(self.stage5(p4))))
        output: Tensor | tuple[Tensor, ...] = self.head(self.neck(p3, p4, p5))
        return output

    def _width(self, index: int) -> int:
        return WIDTHS[index + 1]

    def _block(self, number: int, in_channels: int, out_channels: int) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must define _block")

    def _attention(self, channels: int) -> nn.Module:
        return nn.Identity()


def _official_keys(attention: int, head: int, blocks: tuple[int, ...]) -> dict[str, str | None]:
    """Numbers in the official list of layers, as the attributes here; ``attention`` is 0 where there is none."""
    keys: dict[str, str | None] = {"model.0": "stem", f"model.{head}": "head", f"model.{head}.dfl": None}
    for index, stage in enumerate(list(STAGES)[:-1]):
        keys |= {f"model.{2 * index + 1}": f"{stage}.down", f"model.{2 * index + 2}": f"{stage}.block"}
    keys |= {f"model.9.{official}": f"sppf.{own}" for official, own in SPPF.official_keys.items()}
    if attention:
        keys[f"model.{attention}"] = "attention"
    for number, name in zip(blocks, ("block4", "block3", "out4", "out5"), strict=True):
        keys[f"model.{number}"] = f"neck.{name}.0"
    keys |= {f"model.{blocks[1] + 1}": "neck.down4", f"model.{blocks[2] + 1}": "neck.down5"}
    return keys


@register("yolov8n", aliases=("yolov8", "yolo_v8n"), parameters=3_157_184, **_SETTINGS)
class YOLOv8n(_Detector):
    """Detector of YOLOv8's design at its smallest size, with slots.

    Shape: (N, 3, H, W) -> (N, 4 + num_classes, H * W * 21 / 1024): boxes (centre x, centre y, width, height in pixels)
    and class probabilities for every position of three levels; dynamic N, H, W, multiples of 32.

    Args:
        num_classes: number of classes.
        decode: decode the output as above; without it, and in training mode, the output is three maps
            (N, 64 + num_classes, H / s, W / s) for s = 8, 16 and 32, distributions of the four distances first.
        slot: fills the places of its kind: after each block of the stages and the neck, for every 3x3 convolution of
            their bottlenecks, or after the pyramid pooling.
        slot_stage: fill the places of this stage alone: stage2 to stage5, or neck.

    Raises:
        ValueError: if num_classes < 1, the stage is unknown, the slot cannot be filled, or H or W is no multiple of 32.
    """

    neck_blocks = (12, 15, 18, 21)
    official_keys = _official_keys(0, 22, neck_blocks)

    def _block(self, number: int, in_channels: int, out_channels: int) -> nn.Module:
        return C2f(in_channels, out_channels, n=2 if number in (4, 6) else 1, shortcut=number < 9)


@register("yolo11n", aliases=("yolo11", "yolov11n"), parameters=2_624_064, **_SETTINGS)
class YOLO11n(_Detector):
    """Detector of YOLO11's design at its smallest size, with slots.

    Shape: (N, 3, H, W) -> (N, 4 + num_classes, H * W * 21 / 1024): boxes (centre x, centre y, width, height in pixels)
    and class probabilities for every position of three levels; dynamic N, H, W, multiples of 32.

    Args:
        num_classes: number of classes.
        decode: decode the output as above; without it, and in training mode, the output is three maps
            (N, 64 + num_classes, H / s, W / s) for s = 8, 16 and 32, distributions of the four distances first.
        slot: fills the places of its kind: after each block of the stages and the neck, for every 3x3 convolution of
            their bottlenecks, or after the pyramid pooling.
        slot_stage: fill the places of this stage alone: stage2 to stage5, or neck.

    Raises:
        ValueError: if num_classes < 1, the stage is unknown, the slot cannot be filled, or H or W is no multiple of 32.
    """

    neck_blocks = (13, 16, 19, 22)
    separable = True
    official_keys = _official_keys(10, 23, neck_blocks)

    def _width(self, index: int) -> int:
        return (64, 128, 128, 256)[index]

    def _block(self, number: int, in_channels: int, out_channels: int) -> nn.Module:
        return C3k2(in_channels, out_channels, c3k=number in (6, 8, 22), e=0.25 if number in (2, 4) else 0.5)

    def _attention(self, channels: int) -> nn.Module:
        return C2PSA(channels)
