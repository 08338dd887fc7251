"""The down-sampling layers of YOLOv9 and YOLOv10: ADown, AConv and SCDown.

Paper: YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information, ECCV 2024, arXiv:2402.13616;
    SCDown: YOLOv10: Real-Time End-to-End Object Detection, NeurIPS 2024, arXiv:2405.14458.
Official: ultralytics 8.4, nn/modules/block.py (ADown, AConv, SCDown); ADown and AConv alike in WongKinYiu/yolov9,
    models/common.py.
Export: AveragePool, Conv, MaxPool, Slice with constant bounds in place of chunk, Concat. Equal bit for bit. Fusing folds
    every BatchNorm; the average pool does not fold into the 3x3 convolution, whose padding lies between the two.
Deviations: YOLO models set BatchNorm's eps to 1e-3 after construction; give bn_eps for their checkpoints.
Limits: ADown and AConv need H and W of at least 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, check_channels, require_divisible, require_odd, require_positive
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}
_FIX = "the map is averaged over windows of 2x2 first"


@register("adown", aliases=("a_down",), reference=_REFERENCE, parameters=10368, minimum={"H": 2, "W": 2})
class ADown(nn.Module):
    """Halves a map: average pooling, then a strided convolution of one half of the channels, max pooling of the other.

    Shape: (N, C_in, H, W) -> (N, C_out, H // 2, W // 2); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if in_channels or out_channels is odd, or H or W is below 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_divisible("in_channels", in_channels, "the number of branches", 2)
        require_divisible("out_channels", out_channels, "the number of branches", 2)
        self.in_channels, self.first_part = in_channels, in_channels // 2
        self.cv1 = ConvNormAct(self.first_part, out_channels // 2, 3, stride=2, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(self.first_part, out_channels // 2, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ADown")
        require_least_size(x, 2, "ADown", _FIX)
        x = F.avg_pool2d(x, 2, 1)
        pooled = F.max_pool2d(x[:, self.first_part :], 3, 2, 1)
        return torch.cat((self.cv1(x[:, : self.first_part]), self.cv2(pooled)), 1)


@register("aconv", aliases=("a_conv",), reference=_REFERENCE, parameters=36992, minimum={"H": 2, "W": 2})
class AConv(nn.Module):
    """Halves a map: average pooling over windows of 2x2 with stride 1, then a 3x3 convolution with stride 2.

    Shape: (N, C_in, H, W) -> (N, C_out, H // 2, W // 2); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        bn_eps: of the BatchNorm.

    Raises:
        ValueError: if a channel count is below 1, or H or W below 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, out_channels, 3, stride=2, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "AConv")
        require_least_size(x, 2, "AConv", _FIX)
        return self.cv1(F.avg_pool2d(x, 2, 1))


@register("scdown", aliases=("sc_down",), reference=_REFERENCE, parameters=4928)
class SCDown(nn.Module):
    """Changes the width by a 1x1 convolution and the size by a strided depthwise one after it.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if kernel_size is even, or a number is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 2, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_odd(kernel_size=kernel_size)
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, out_channels, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(
            out_channels, out_channels, kernel_size, stride=stride, groups=out_channels, act=None, bn_eps=bn_eps
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SCDown")
        return self.cv2(self.cv1(x))
