"""DO-Conv: depthwise over-parameterized convolution.

Paper: DO-Conv: Depthwise Over-parameterized Convolutional Layer, IEEE TIP 2022, arXiv:2006.12030.
Official: yangyanli/DO-Conv, do_conv_pytorch_1_10.py.
Export: fused, the module is the plain convolution whose kernel is the product of both factors, exactly. Unfused, that
    product is a batched MatMul of parameters instead of an Einsum.
Deviations: the constant diagonal is a buffer, not a parameter without gradient. A depth multiplier below the kernel's
    area is refused, where the official code silently builds a wrong diagonal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    require_choice,
    require_convolution,
    require_not_negative,
    require_positive,
)
from attn_deploy.registry import register


@register(
    "doconv",
    aliases=("depthwise_over_parameterized_conv",),
    reference={"in_channels": 64, "out_channels": 64, "padding": 1},
    parameters=42112,
)
class DOConv2d(Fusible, nn.Module):
    """A convolution trained as the product of a depthwise and a full kernel, which folds to one for inference.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: one number, or rows and columns.
        depth_multiplier: width between the factors (official D_mul); None is the kernel's area, as for 1x1 kernels.
        stride: step of the window.
        padding: padding on every side.
        dilation: distance of the taps.
        groups: groups of channels.
        bias: whether a bias is added.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ValueError: if groups does not divide the channels, padding_mode is not one of the choices, or depth_multiplier
            is below the kernel's area.
    """

    official_keys = {"W": "kernel", "D": "depthwise", "d_diag": "diagonal", "D_diag": "diagonal"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | tuple[int, int] = 3,
        depth_multiplier: int | None = None,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        require_convolution(in_channels, out_channels, groups, stride=stride, dilation=dilation)
        require_positive(kernel_size=min(rows, columns))
        require_not_negative(padding=padding)
        require_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        area = rows * columns
        depth = area if depth_multiplier is None or area == 1 else depth_multiplier
        if depth < area:
            raise ValueError(
                f"depth_multiplier must be at least the kernel's area, got depth_multiplier={depth} and a kernel of "
                f"{rows}x{columns}: use {area} or more."
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = (rows, columns)
        self.stride, self.padding, self.dilation, self.padding_mode = stride, padding, dilation, padding_mode
        self.kernel = nn.Parameter(torch.empty(out_channels, in_channels // groups, depth))
        nn.init.kaiming_uniform_(self.kernel, a=math.sqrt(5))
        self.depthwise = None
        if area > 1:
            self.depthwise = nn.Parameter(torch.zeros(in_channels, area, depth))
            diagonal = torch.eye(area).repeat(1, depth // area)
            diagonal = F.pad(diagonal, (0, depth % area))
            self.register_buffer("diagonal", diagonal.repeat(in_channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        if bias:
            bound = 1 / math.sqrt(in_channels // groups * depth)
            nn.init.uniform_(self.bias, -bound, bound)
        self.folded: nn.Conv2d | None = None

    def effective_weight(self) -> Tensor:
        """The kernel of the equal plain convolution: (C_out, C_in / groups, rows, columns).

        With groups, the official plain reshape lets output channel o use the depthwise factors of the channels that
        follow (o % groups) * C_in / groups, whatever group the convolution puts o into. Checkpoints rely on it.
        """
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        if self.depthwise is None:
            return self.kernel.reshape(shape)
        depthwise = (self.depthwise + self.diagonal).transpose(1, 2)
        kernel = self.kernel.reshape(self.out_channels // self.groups, self.in_channels, -1)
        return torch.matmul(kernel.transpose(0, 1), depthwise).transpose(0, 1).reshape(shape)

    def fuse_(self) -> str | None:
        """Multiply the factors: a plain convolution with the same bias remains."""
        if self.folded is not None:
            return None
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
        )
        conv.weight = nn.Parameter(self.effective_weight().detach().contiguous())
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach())
        self.folded = conv
        self.kernel = self.depthwise = self.bias = None
        self.diagonal = None
        return "multiplied both factors into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DOConv2d")
        if self.folded is not None:
            return self.folded(x)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, (padding,) * 4, mode=self.padding_mode), 0
        return F.conv2d(x, self.effective_weight(), self.bias, self.stride, padding, self.dilation, self.groups)
