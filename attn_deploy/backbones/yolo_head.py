"""The detection head of YOLOv8 and YOLO11: one branch for boxes and one for classes at each level, and their decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct

BINS = 16  # each side's distance is the mean of a distribution over so many whole cells


class DetectionHead(nn.Module):
    """Distances of each box's four sides and class logits at every position of three levels; no anchors.

    Shape: (N, C_i, H_i, W_i) for each level -> decoded (N, 4 + num_classes, sum of H_i * W_i): centre x, centre y, width
    and height in pixels of the image, then probabilities; or raw, for each level (N, 64 + num_classes, H_i, W_i).

    Args:
        channels: C_i of each level, the finest first.
        strides: by how much each level is smaller than the image.
        num_classes: number of classes.
        separable: class branches of depthwise and 1x1 convolutions, as in YOLO11, in place of 3x3, as in YOLOv8.
        decode: whether the output is decoded where the module is not in training mode.
    """

    bins: Tensor

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, separable: bool, decode: bool
    ) -> None:
        super().__init__()
        self.strides, self.num_classes, self.decode = tuple(strides), num_classes, decode
        box_width = max(16, channels[0] // 4, 4 * BINS)
        class_width = max(channels[0], min(num_classes, 100))

        def layer(in_channels: int, out_channels: int) -> nn.Module:
            if not separable:
                return ConvNormAct(in_channels, out_channels, 3)
            depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels)
            return nn.Sequential(depthwise, ConvNormAct(in_channels, out_channels))

        self.cv2 = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(c, box_width, 3),
                ConvNormAct(box_width, box_width, 3),
                nn.Conv2d(box_width, 4 * BINS, 1),
            )
            for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                layer(c, class_width), layer(class_width, class_width), nn.Conv2d(class_width, num_classes, 1)
            )
            for c in channels
        )
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS), persistent=False)
        for box, scores, stride in zip(self.cv2, self.cv3, self.strides, strict=True):
            nn.init.constant_(_bias(box), 1.0)
            nn.init.constant_(_bias(scores), math.log(5 / num_classes / (640 / stride) ** 2))

    def forward(self, levels: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """The head's output for the maps of all levels."""
        pairs = [(box(x), scores(x)) for box, scores, x in zip(self.cv2, self.cv3, levels, strict=True)]
        if self.training or not self.decode:
            return tuple(torch.cat(pair, 1) for pair in pairs)
        decoded = [self._decoded(*pair, stride) for pair, stride in zip(pairs, self.strides, strict=True)]
        return torch.cat(decoded, 2)

    def _decoded(self, box: Tensor, scores: Tensor, stride: int) -> Tensor:
        """One level as (N, 4 + num_classes, H * W)."""
        batch, _, height, width = box.shape
        weights = box.reshape(batch, 4, BINS, height * width).softmax(2)
        sides = torch.matmul(self.bins, weights).reshape(batch, 4, height, width)
        left, top, right, bottom = sides[:, :1], sides[:, 1:2], sides[:, 2:3], sides[:, 3:]
        columns = torch.arange(width, device=box.device).to(box.dtype) + 0.5
        rows = (torch.arange(height, device=box.device).to(box.dtype) + 0.5).unsqueeze(1)
        x = columns + (right - left) * 0.5
        y = rows + (bottom - top) * 0.5
        boxes = torch.cat((x, y, left + right, top + bottom), 1) * float(stride)
        return torch.cat((boxes, scores.sigmoid()), 1).flatten(2)


def _bias(branch: nn.Module) -> Tensor:
    """The bias of a branch's last convolution."""
    last = list(branch.children())[-1]
    return cast(Tensor, last.bias)
