"""The pyramid poolings of YOLOv6, YOLOv7 and YOLOv9: SimSPPF, SimCSPSPPF, SPPCSPC and SPPELAN.

Paper: YOLOv7: Trainable Bag-of-Freebies Sets New State-of-the-Art for Real-Time Object Detectors, CVPR 2023,
    arXiv:2207.02696; YOLOv6 v3.0, arXiv:2301.05586; YOLOv9, ECCV 2024, arXiv:2402.13616.
Official: WongKinYiu/yolov7, models/common.py (SPPCSPC); meituan/YOLOv6, yolov6/layers/common.py (SimSPPF, SimCSPSPPF);
    WongKinYiu/yolov9, models/common.py (SPPELAN), alike in ultralytics 8.4.
Export: Conv, MaxPool and Concat. SPPCSPC pools windows of 5, 9 and 13 by one of 5 applied three times. Equal bit for
    bit. Fusing folds every BatchNorm.
Deviations: the official SPPCSPC has arguments n, shortcut and g that it ignores; they are left out here. SPPELAN is sppf
    with an activation after its first convolution and a free width. YOLO models set BatchNorm's eps to 1e-3 after
    construction; give bn_eps for their checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, check_channels, require_odd, require_positive
from attn_deploy.ops.chained_pools import ChainedMaxPools, require_growing
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}


def _width(name: str, out_channels: int, factor: float) -> int:
    require_positive(out_channels=out_channels)
    width = int(factor * out_channels)
    if width < 1:
        raise ValueError(
            f"the inner width {name} must be at least 1, got {width} for out_channels={out_channels}: use a larger e."
        )
    return width


@register("sppelan", aliases=("spp_elan",), reference={**_REFERENCE, "hidden": 32}, parameters=10432)
class SPPELAN(nn.Module):
    """Narrows a map and joins it with three rounds of max pooling.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        hidden: width of what is pooled.
        kernel_size: of the max pool.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if kernel_size is even, or a width is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, *, kernel_size: int = 5, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, hidden=hidden)
        require_odd(kernel_size=kernel_size)
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, hidden, bn_eps=bn_eps)
        self.cv5 = ConvNormAct(4 * hidden, out_channels, bn_eps=bn_eps)
        self.pools = ChainedMaxPools([1 + i * (kernel_size - 1) for i in (1, 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SPPELAN")
        y = self.cv1(x)
        return self.cv5(torch.cat([y, *self.pools(y)], 1))


@register("simsppf", aliases=("sim_sppf",), reference=_REFERENCE, parameters=10432)
class SimSPPF(nn.Module):
    """SPPF with ReLU: narrows a map to half and joins it with three rounds of max pooling.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the max pool.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if kernel_size is even, in_channels is below 2 or out_channels below 1.
    """

    official_keys = {f"sppf.cv{i}.block": f"cv{i}" for i in (1, 2)}

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 5, bn_eps: float = 1e-5) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_odd(kernel_size=kernel_size)
        if in_channels < 2:
            raise ValueError(f"in_channels must be at least 2, got {in_channels}: half of them are pooled.")
        width = in_channels // 2
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, width, act="relu", bn_eps=bn_eps)
        self.cv2 = ConvNormAct(4 * width, out_channels, act="relu", bn_eps=bn_eps)
        self.pools = ChainedMaxPools([1 + i * (kernel_size - 1) for i in (1, 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SimSPPF")
        y = self.cv1(x)
        return self.cv2(torch.cat([y, *self.pools(y)], 1))


class _CrossStagePooling(nn.Module):
    """What both cross-stage forms share: seven convolutions, of which the second passes the pools by."""

    passed_first = False  # whether the convolution that passes the pools by comes first where both are joined

    def __init__(
        self, in_channels: int, out_channels: int, width: int, kernels: Sequence[int], act: str, bn_eps: float
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels)

        def layer(taken: int, given: int, kernel_size: int = 1) -> nn.Module:
            return ConvNormAct(taken, given, kernel_size, act=act, bn_eps=bn_eps)

        self.in_channels = in_channels
        self.cv1 = layer(in_channels, width)
        self.cv2 = layer(in_channels, width)
        self.cv3 = layer(width, width, 3)
        self.cv4 = layer(width, width)
        self.pools = ChainedMaxPools(kernels)
        self.cv5 = layer((1 + len(kernels)) * width, width)
        self.cv6 = layer(width, width, 3)
        self.cv7 = layer(2 * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, type(self).__name__)
        y = self.cv4(self.cv3(self.cv1(x)))
        pooled = self.cv6(self.cv5(torch.cat([y, *self.pools(y)], 1)))
        passed = self.cv2(x)
        return self.cv7(torch.cat((passed, pooled) if self.passed_first else (pooled, passed), 1))


@register("sppcspc", aliases=("spp_cspc",), reference=_REFERENCE, parameters=111488)
class SPPCSPC(_CrossStagePooling):
    """Pools windows of several sizes in one of two branches, which three convolutions lead to and two join.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        e: half of the inner width in multiples of C_out.
        kernels: window sizes of the max pools.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if int(2 * out_channels * e) < 1, or kernels are not odd or do not grow.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        e: float = 0.5,
        kernels: Sequence[int] = (5, 9, 13),
        bn_eps: float = 1e-5,
    ) -> None:
        require_growing("kernels", kernels)
        width = _width("int(2 * out_channels * e)", out_channels, 2 * e)
        super().__init__(in_channels, out_channels, width, kernels, "silu", bn_eps)


@register("simcspsppf", aliases=("sim_cspsppf",), reference=_REFERENCE, parameters=32256)
class SimCSPSPPF(_CrossStagePooling):
    """SPPCSPC with ReLU, at half of the width, and with the branch that is not pooled first.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the max pool that is applied three times.
        e: inner width in multiples of C_out.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if int(out_channels * e) < 1, or kernel_size is even.
    """

    official_keys = {f"cspsppf.cv{i}.block": f"cv{i}" for i in range(1, 8)}
    passed_first = True

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 5, e: float = 0.5, bn_eps: float = 1e-5
    ) -> None:
        require_odd(kernel_size=kernel_size)
        width = _width("int(out_channels * e)", out_channels, e)
        kernels = [1 + i * (kernel_size - 1) for i in (1, 2, 3)]
        super().__init__(in_channels, out_channels, width, kernels, "relu", bn_eps)
