"""Pyramidal convolution.

Paper: Pyramidal Convolution: Rethinking Convolutional Neural Networks for Visual Recognition, 2020, arXiv:2006.11538.
Official: iduta/pyconv, models/pyconvresnet.py.
Export: plain convolutions and one concatenation; nothing needed replacing.
Deviations: the official padding leaves out the dilation, so that levels of different kernels differ in size with
    dilation > 1 and the concatenation raises; here it is dilation * (kernel_size - 1) // 2, the same without dilation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_odd, require_positive
from attn_deploy.registry import register

_SHARES = {1: (1,), 2: (1, 1), 3: (1, 1, 2), 4: (1, 1, 1, 1)}  # of the output channels, as in the official networks


@register(
    "pyconv2",
    reference={"in_channels": 64, "out_channels": 64, "kernel_sizes": (3, 5), "groups": (1, 4)},
    parameters=31232,
    summary="Pyramidal convolution of two levels, 3x3 and 5x5.",
)
@register(
    "pyconv3",
    reference={"in_channels": 64, "out_channels": 64, "kernel_sizes": (3, 5, 7), "groups": (1, 4, 8)},
    parameters=28160,
    summary="Pyramidal convolution of three levels, 3x3 to 7x7.",
)
@register(
    "pyconv",
    aliases=("pyramidal_conv", "pyconv4"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=27072,
)
class PyConv2d(nn.Module):
    """Convolutions of growing kernel size and group count side by side, their outputs concatenated.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out, divided among up to four levels as in the official networks, or the width of each level.
        kernel_sizes: kernel size of each level.
        groups: groups of channels of each level.
        stride: step of the window.
        dilation: distance of the taps.
        bias: whether the convolutions have a bias.

    Raises:
        ValueError: if the lists differ in length, a kernel size is even, or groups do not divide the channels.
    """

    official_keys = {"pyconv_levels": "levels"} | {f"conv2_{i + 1}": f"levels.{i}" for i in range(4)}

    def __init__(
        self,
        in_channels: int,
        out_channels: int | Sequence[int],
        *,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        groups: Sequence[int] = (1, 4, 8, 16),
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, stride=stride, dilation=dilation)
        if isinstance(out_channels, int):
            out_channels = _divided(out_channels, len(kernel_sizes))
        if not len(out_channels) == len(kernel_sizes) == len(groups) or not groups:
            raise ValueError(
                "out_channels, kernel_sizes and groups must name as many levels, at least one, got "
                f"{len(out_channels)}, {len(kernel_sizes)} and {len(groups)}: give one value for each level."
            )
        self.in_channels = in_channels
        self.levels = nn.ModuleList()
        for width, kernel_size, count in zip(out_channels, kernel_sizes, groups, strict=True):
            require_odd(kernel_sizes=kernel_size)
            require_positive(out_channels=width, groups=count)
            require_divisible("in_channels", in_channels, "groups", count)
            require_divisible("out_channels", width, "groups", count)
            self.levels.append(
                nn.Conv2d(
                    in_channels,
                    width,
                    kernel_size,
                    stride=stride,
                    padding=dilation * (kernel_size - 1) // 2,
                    dilation=dilation,
                    groups=count,
                    bias=bias,
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PyConv2d")
        return torch.cat([level(x) for level in self.levels], 1)


def _divided(channels: int, levels: int) -> tuple[int, ...]:
    if levels not in _SHARES:
        raise ValueError(
            f"out_channels={channels} can be divided among 1 to 4 levels, got {levels} kernel_sizes: give the width of each."
        )
    parts = sum(_SHARES[levels])
    if channels % parts:
        raise ValueError(
            f"out_channels must be a multiple of {parts} for {levels} levels, got {channels}: "
            f"use {max(parts, channels // parts * parts)}, or give the width of each level."
        )
    return tuple(share * channels // parts for share in _SHARES[levels])
