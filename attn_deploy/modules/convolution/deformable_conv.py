"""Modulated deformable convolution: each tap is sampled beside its place and weighed, as predicted from the map.

Paper: Deformable ConvNets v2: More Deformable, Better Results, CVPR 2019, arXiv:1811.11168.
Official: open-mmlab/mmcv, mmcv/ops/modulated_deform_conv.py (ModulatedDeformConv2dPack); torchvision.ops.deform_conv2d has
    the same maths and order of offsets.
Export: mmcv's operator is none of ONNX. By default, at every opset, the four neighbours of each sample are gathered, the
    mask is part of their weights, and one matrix product sums taps and channels. From opset 19 on,
    sampling="deform_conv" writes the operator DeformConv instead. Equal up to rounding.
Deviations: the padding is 1 by default, as networks give it for 3x3, where the official class has 0.
Limits: sampling="deform_conv" needs opset 19; ONNX Runtime runs DeformConv, TensorRT-RTX refuses it. The offsets' convolution
    wants a higher precision than int8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    bilinear_sample,
    check_channels,
    coordinates_like,
    require_choice,
    require_convolution,
    require_divisible,
    require_not_negative,
)
from attn_deploy.ops.deform_conv_operator import deform_conv_operator, is_exported
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.registry import register

SAMPLING = ("gather", "deform_conv")


@register(
    "deformable_conv_v2",
    aliases=(
        "dcn_v2",
        "dcn",
        "deform_conv",
        "deform_conv2d",
        "modulated_deform_conv",
        "deformable_conv2d",
        "modulated_deform_conv2d_pack",
    ),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=52507,
)
class DeformableConv2d(nn.Module):
    """A convolution whose taps are sampled at learned offsets from their places, each with a weight in (0, 1).

    Shape: (N, C_in, H, W) -> (N, C_out, H', W') as a convolution; dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k.
        stride: step of the window.
        padding: zeros on every side.
        dilation: distance of the taps.
        groups: groups of channels.
        deform_groups: groups of input channels with offsets of their own.
        bias: whether a bias is added.
        sampling: form in an exported file, "gather" for every opset, or "deform_conv" from opset 19 on.

    Raises:
        ValueError: if a number is below its least, groups or deform_groups does not divide the channels, or sampling is
            unknown.
    """

    distance_weights = ("conv_offset.weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        sampling: str = "gather",
    ) -> None:
        super().__init__()
        require_convolution(
            in_channels, out_channels, groups, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        require_not_negative(padding=padding)
        require_divisible("in_channels", in_channels, "deform_groups", deform_groups)
        require_choice("sampling", sampling, SAMPLING)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.groups, self.deform_groups, self.sampling = groups, deform_groups, sampling
        self.taps = kernel_size * kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * self.taps)
        nn.init.uniform_(self.weight, -bound, bound)
        self.conv_offset = nn.Conv2d(
            in_channels,
            3 * deform_groups * self.taps,
            kernel_size,
            stride,
            padding,
            dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DeformableConv2d")
        samples = self.deform_groups * self.taps
        offset, mask = split_channels(self.conv_offset(x), (2 * samples, samples))
        mask = mask.sigmoid()
        if self.sampling == "deform_conv" and is_exported():
            return deform_conv_operator(
                x,
                self.weight,
                offset,
                self.bias,
                mask,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
                deform_groups=self.deform_groups,
            )
        return self._gathered(x, offset, mask)

    def _gathered(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        height, width = offset.shape[2], offset.shape[3]
        # Offsets come group by group and tap by tap, rows before columns.
        offset = coordinates_like(offset).reshape(-1, self.deform_groups, self.taps, 2, height, width)
        rows = offset[:, :, :, 0] + self._places(height, offset, across=False)
        columns = offset[:, :, :, 1] + self._places(width, offset, across=True)
        values = bilinear_sample(
            x.permute(0, 2, 3, 1),
            columns.flatten(3).permute(0, 3, 1, 2),
            rows.flatten(3).permute(0, 3, 1, 2),
            channels=self.in_channels,
            groups=self.deform_groups,
            taps=self.taps,
            weights=mask.reshape(-1, self.deform_groups, self.taps, height * width).permute(0, 3, 1, 2),
        )
        if self.groups > 1:
            patches = values.permute(0, 2, 4, 3, 1).reshape(-1, self.in_channels * self.taps, height, width)
            return nn.functional.conv2d(patches, self.weight.flatten(1)[..., None, None], self.bias, groups=self.groups)
        # Places lead in what was gathered: a product over the rest needs no transpose of the nine maps, the largest tensor.
        kernel = self.weight.reshape(self.out_channels, self.deform_groups, -1, self.taps).transpose(2, 3).flatten(1)
        y = nn.functional.linear(values.flatten(2), kernel, self.bias)
        return y.transpose(1, 2).reshape(-1, self.out_channels, height, width)

    def _places(self, length: int, like: Tensor, *, across: bool) -> Tensor:
        """Where the taps lie along one axis without offset: (taps, 1, length) across, (taps, length, 1) down."""
        tap = torch.arange(self.taps, device=like.device)
        tap = tap % self.kernel_size if across else tap // self.kernel_size
        starts = torch.arange(length, device=like.device) * self.stride - self.padding
        starts = starts.unsqueeze(0) if across else starts.unsqueeze(1)
        return (starts + tap.reshape(-1, 1, 1) * self.dilation).to(like.dtype)
