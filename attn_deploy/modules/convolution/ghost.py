"""Ghost module: half of the feature maps from a convolution, the rest from cheap depthwise filters on those.

Paper: GhostNet: More Features from Cheap Operations, CVPR 2020, arXiv:1911.11907.
Official: huawei-noah/Efficient-AI-Backbones, ghostnet_pytorch/ghostnet.py.
Export: no operator needed replacing. The surplus maps of an uneven split are cut before the concatenation, not after
    it, and never computed once fused where the depthwise groups allow. Equal bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    conv_bn_act,
    conv_bn_relu,
    fold_sequential,
    global_avg_pool,
    make_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register(
    "ghostmodule",
    aliases=("ghost", "ghost_conv"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=2464,
)
class GhostModule(Fusible, nn.Module):
    """Makes 1 / ratio of its output maps with a convolution and the others with depthwise filters on those.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k of the primary convolution.
        ratio: how many maps each map of the primary convolution gives, itself included.
        dw_size: kernel size of the depthwise filters.
        stride: step of the primary convolution.
        relu: whether ReLU follows both parts.

    Raises:
        ValueError: if ratio < 2, or a kernel size is even.
    """

    official_keys = {"primary_conv": "primary", "cheap_operation": "cheap"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        stride: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, ratio=ratio, stride=stride)
        require_odd(kernel_size=kernel_size, dw_size=dw_size)
        if ratio < 2:
            raise ValueError(f"ratio must be at least 2, got {ratio}: with ratio=1 a plain convolution is meant.")
        primary = math.ceil(out_channels / ratio)
        self.in_channels = in_channels
        self.primary_channels = self.sources = primary
        self.ghosts = out_channels - primary
        self.per_source = ratio - 1
        self.primary = conv_bn_relu(in_channels, primary, kernel_size, stride=stride, relu=relu)
        self.cheap = conv_bn_relu(primary, primary * (ratio - 1), dw_size, groups=primary, relu=relu)

    def fuse_(self) -> str | None:
        """Drop the depthwise groups of which no output is used."""
        needed = math.ceil(self.ghosts / self.per_source)
        if needed == self.sources or needed == 0:
            return None
        fold_sequential(self.cheap)
        filters = self.cheap[0]
        kept = needed * self.per_source
        filters.weight = nn.Parameter(filters.weight.detach()[:kept].clone())
        filters.bias = nn.Parameter(filters.bias.detach()[:kept].clone())
        filters.in_channels, filters.out_channels, filters.groups = needed, kept, needed
        dropped, self.sources = self.sources - needed, needed
        return f"dropped {dropped} unused depthwise group{'s' * (dropped > 1)}"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "GhostModule")
        primary = self.primary(x)
        if self.ghosts == 0:
            return primary
        sources = primary if self.sources == self.primary_channels else primary[:, : self.sources]
        ghosts = self.cheap(sources)
        if self.sources * self.per_source > self.ghosts:
            ghosts = ghosts[:, : self.ghosts]
        return torch.cat((primary, ghosts), 1)


class GhostBottleneckParts(nn.Module):
    """What the two generations of the bottleneck share: all but the module that expands.

    Args:
        expand: the module that expands, from C_in to mid_channels.
        in_channels: C_in.
        mid_channels: width between the two Ghost modules.
        out_channels: C_out.
        kernel_size: of the strided depthwise convolution and of the shortcut's.
        stride: step; 1 leaves the depthwise convolution out.
        se_ratio: width of the squeeze-and-excitation over mid_channels; 0 leaves it out.

    Raises:
        ValueError: if se_ratio is negative, or a number is below its least.
    """

    def __init__(
        self,
        expand: nn.Module,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        se_ratio: float,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        if not se_ratio >= 0:
            raise ValueError(f"se_ratio must be at least 0, got {se_ratio}: 0 leaves squeeze-and-excitation out.")
        self.in_channels = in_channels
        self.expand = expand
        self.depthwise = self.se = None
        if stride > 1:
            self.depthwise = conv_bn_act(mid_channels, mid_channels, kernel_size, stride=stride, groups=mid_channels)
        if se_ratio > 0:
            width = make_divisible(mid_channels * se_ratio, 4)
            self.se = nn.Sequential(
                nn.Conv2d(mid_channels, width, 1), nn.ReLU(), nn.Conv2d(width, mid_channels, 1), nn.Hardsigmoid()
            )
        self.project = GhostModule(mid_channels, out_channels, relu=False)
        self.shortcut = nn.Identity()
        if in_channels != out_channels or stride > 1:
            self.shortcut = nn.Sequential(
                *conv_bn_act(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels),
                *conv_bn_act(in_channels, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, type(self).__name__)
        y = self.expand(x)
        if self.depthwise is not None:
            y = self.depthwise(y)
        if self.se is not None:
            y = y * self.se(global_avg_pool(y))
        return self.project(y) + self.shortcut(x)


@register(
    "ghost_bottleneck",
    reference={"in_channels": 64, "out_channels": 64, "mid_channels": 128, "se_ratio": 0.25},
    parameters=17792,
)
class GhostBottleneck(GhostBottleneckParts):
    """Expands with a Ghost module, strides depthwise, reweights the channels and projects with a second Ghost module.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        mid_channels: width between the two Ghost modules; None is twice C_in.
        dw_kernel_size: kernel size of the strided depthwise convolution and of the shortcut's.
        stride: step; 1 leaves the depthwise convolution out.
        se_ratio: width of the squeeze-and-excitation over mid_channels, rounded to a multiple of 4; 0 leaves it out.

    Raises:
        ValueError: if dw_kernel_size is even, se_ratio is negative, or a number is below its least.
    """

    official_keys = {
        "ghost1.primary_conv": "expand.primary",
        "ghost1.cheap_operation": "expand.cheap",
        "ghost2.primary_conv": "project.primary",
        "ghost2.cheap_operation": "project.cheap",
        "conv_dw": "depthwise.0",
        "bn_dw": "depthwise.1",
        "se.conv_reduce": "se.0",
        "se.conv_expand": "se.2",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int | None = None,
        dw_kernel_size: int = 3,
        stride: int = 1,
        se_ratio: float = 0.0,
    ) -> None:
        require_positive(in_channels=in_channels)
        mid_channels = 2 * in_channels if mid_channels is None else mid_channels
        require_positive(mid_channels=mid_channels)
        require_odd(dw_kernel_size=dw_kernel_size)
        super().__init__(
            GhostModule(in_channels, mid_channels),
            in_channels,
            mid_channels,
            out_channels,
            kernel_size=dw_kernel_size,
            stride=stride,
            se_ratio=se_ratio,
        )
