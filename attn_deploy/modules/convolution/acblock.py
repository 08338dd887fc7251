"""Asymmetric convolution block of ACNet.

Paper: ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks, ICCV 2019,
    arXiv:1908.03930.
Official: DingXiaoH/ACNet, acnet/acb.py.
Export: fused, the three branches are one convolution, exactly. Unfused, nothing needed replacing.
Deviations: the official offset padding - kernel_size // 2 leaves out the dilation and raises with dilation > 1; here it
    is padding - dilation * (kernel_size // 2), the same without dilation. Fusing without affine BatchNorm works too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    require_choice,
    require_convolution,
    require_not_negative,
    require_odd,
)
from attn_deploy.registry import register


@register(
    "acblock",
    aliases=("acb", "acnet_block", "asymmetric_conv_block"),
    reference={"in_channels": 64, "out_channels": 64, "padding": 1},
    parameters=61824,
)
class ACBlock(Fusible, nn.Module):
    """The sum of a square, a vertical and a horizontal convolution, each with its own BatchNorm.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k of the square kernel; the others are k x 1 and 1 x k.
        stride: step of the window.
        padding: zeros on every side of the square branch; the others are padded, or cropped, to match.
        dilation: distance of the taps.
        groups: groups of channels.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        use_affine: whether the BatchNorms have a scale and a shift.
        reduce_gamma: whether the scales start at 1/3.
        gamma_init: what the scales start at instead of 1.

    Raises:
        ValueError: if kernel_size is even, groups does not divide the channels, reduce_gamma and gamma_init are both
            given, or padding_mode is not "zeros" although a branch must be cropped.
    """

    official_keys = {
        "square_conv": "square.0",
        "square_bn": "square.1",
        "ver_conv": "vertical.0",
        "ver_bn": "vertical.1",
        "hor_conv": "horizontal.0",
        "hor_bn": "horizontal.1",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        use_affine: bool = True,
        reduce_gamma: bool = False,
        gamma_init: float | None = None,
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups, stride=stride, dilation=dilation)
        require_odd(kernel_size=kernel_size)
        require_not_negative(padding=padding)
        require_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        if reduce_gamma and gamma_init is not None:
            raise ValueError(f"reduce_gamma and gamma_init={gamma_init} both set the scale of BatchNorm: give one.")
        offset = padding - dilation * (kernel_size // 2)
        if offset < 0 and padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={padding_mode!r} needs a padding of at least {dilation * (kernel_size // 2)}, got "
                f"padding={padding}: below, the input is cropped; use padding_mode='zeros'."
            )
        self.in_channels = in_channels
        self.crop = max(0, -offset)
        side = max(0, offset)

        def branch(kernel: tuple[int, int], pad: tuple[int, int]) -> nn.Sequential:
            conv = nn.Conv2d(
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=pad,
                dilation=dilation,
                groups=groups,
                bias=False,
                padding_mode=padding_mode,
            )
            norm = nn.BatchNorm2d(out_channels, affine=use_affine)
            gamma = 1 / 3 if reduce_gamma else gamma_init
            if use_affine and gamma is not None:
                nn.init.constant_(norm.weight, gamma)
            return nn.Sequential(conv, norm)

        self.square = branch((kernel_size, kernel_size), (padding, padding))
        self.vertical = branch((kernel_size, 1), (padding, side))
        self.horizontal = branch((1, kernel_size), (side, padding))
        self.fused: nn.Conv2d | None = None

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution: the folded kernels, the narrow ones added onto the middle row and column of the square."""
        if self.fused is not None:
            return None
        fused, vertical, horizontal = (fold_bn_into_conv(*b) for b in (self.square, self.vertical, self.horizontal))
        middle = fused.kernel_size[0] // 2
        fused.weight[:, :, :, middle] += vertical.weight[:, :, :, 0]
        fused.weight[:, :, middle, :] += horizontal.weight[:, :, 0, :]
        fused.bias += vertical.bias + horizontal.bias
        self.fused = fused
        del self.square, self.vertical, self.horizontal
        return "merged three branches into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ACBlock")
        if self.fused is not None:
            return self.fused(x)
        c = self.crop
        narrow, low = (x[:, :, :, c:-c], x[:, :, c:-c, :]) if c else (x, x)
        return self.square(x) + self.vertical(narrow) + self.horizontal(low)
