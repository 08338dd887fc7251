"""Poly-scale convolution.

Paper: PSConv: Squeezing Feature Pyramid into One Compact Poly-Scale Convolutional Layer, ECCV 2020, arXiv:2007.06191.
Official: d-li14/PSConv, mmdet/models/utils/psconv.py, PSConv2d and PSGConv2d.
Export: the swap of channel halves is one Gather with a constant index. Fused, the undilated grouped convolution moves
    into the dense one at no cost and two convolutions remain (or, if asked, one of 5x5). Equal up to rounding.
Deviations: the official mask lives on the GPU and acts through a gradient hook, which a copy of the module loses; here
    masked weights get no gradient in train mode, whatever becomes of the module. The official mask of the grouped form
    counts rows by groups instead of parts; the intended one is the default, official_mask=True gives the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_divisible, require_positive
from attn_deploy.registry import register


@register(
    "psgconv",
    reference={"in_channels": 64, "out_channels": 64, "groups": 4},
    parameters=13824,
    summary="Poly-scale convolution inside each of several channel groups.",
)
@register(
    "psconv",
    aliases=("poly_scale_conv",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=55296,
)
class PSConv2d(Fusible, nn.Module):
    """A 3x3 convolution whose dilation cycles over the pairs of input and output channels.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: 3, the only size the paddings are made for.
        stride: step of the window.
        padding: 1, the only padding at which the parts agree in size.
        dilation: dilation of the grouped convolution; that of the shifted one is twice it, that of the dense one is 1.
        groups: groups of channels, each a poly-scale convolution of its own.
        parts: parts that the channels of a group are divided into.
        bias: whether each of the three convolutions has a bias.
        official_mask: whether dense weights are masked by the official rule, which is off where groups != parts.
        deploy_form: "two_convs" or "one_conv" (5x5): what fusing makes of the module.

    Raises:
        ValueError: if parts is odd, groups * parts does not divide the channels, kernel_size is not 3, padding is not
            1, or deploy_form is not one of the choices.
    """

    official_keys = {"gwconv": "grouped", "gwconv_shift": "shifted", "conv": "dense", "mask": None}

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
        parts: int = 4,
        bias: bool = False,
        official_mask: bool = False,
        deploy_form: str = "two_convs",
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, groups=groups, parts=parts)
        require_positive(stride=stride, dilation=dilation)
        if parts % 2:
            raise ValueError(f"parts must be even, got {parts}: the halves of the parts swap; use {parts + 1}.")
        require_divisible("in_channels", in_channels, "groups * parts", groups * parts)
        require_divisible("out_channels", out_channels, "groups * parts", groups * parts)
        if kernel_size != 3 or padding != 1:
            raise ValueError(
                f"kernel_size must be 3 and padding 1, got kernel_size={kernel_size} and padding={padding}: the "
                "dilated parts are padded for that size only."
            )
        require_choice("deploy_form", deploy_form, ("two_convs", "one_conv"))
        self.in_channels, self.groups, self.parts, self.dilation = in_channels, groups, parts, dilation
        self.deploy_form = deploy_form

        def conv(dilation: int, groups: int) -> nn.Conv2d:
            return nn.Conv2d(
                in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=bias
            )

        self.grouped: nn.Conv2d | None = conv(dilation, groups * parts)
        self.shifted: nn.Conv2d | None = conv(2 * dilation, groups * parts)
        self.dense = conv(1, groups)
        half = in_channels // groups // 2
        swapped = torch.arange(in_channels).reshape(groups, 2, half).flip(1).flatten()
        self.register_buffer("swapped", swapped, persistent=False)
        self.register_buffer("masked", self._mask(official_mask), persistent=False)
        with torch.no_grad():
            self.dense.weight.masked_fill_(self.masked, 0)

    def _mask(self, official: bool) -> Tensor:
        """True at the dense weights that the grouped and the shifted convolution stand for."""
        mask = torch.zeros(self.dense.weight.shape, dtype=torch.bool)
        outs = self.dense.out_channels // (self.groups * self.parts)
        ins = self.in_channels // (self.groups * self.parts)
        for group in range(self.groups):
            first = group * (self.groups if official else self.parts)
            for part in range(self.parts):
                for row in (part, (part + self.parts // 2) % self.parts):
                    start = (first + row) * outs
                    mask[start : start + outs, part * ins : (part + 1) * ins] = True
        return mask

    def fuse_(self) -> str | None:
        """Move the grouped convolution, or both, into the dense one; exact, since all of them are linear."""
        if self.grouped is None or (self.deploy_form == "two_convs" and self.dilation != 1):
            return None
        single = self.deploy_form == "one_conv"
        reach = 2 * self.dilation if single else 1
        kernel = F.pad(self.dense.weight.detach(), (reach - 1,) * 4)
        shape = (self.groups, self.parts, -1, self.parts, self.in_channels // (self.groups * self.parts))
        blocks = kernel.view(*shape, 2 * reach + 1, 2 * reach + 1)
        merged = [(self.grouped, self.dilation, 0)] + [(self.shifted, 2 * self.dilation, self.parts // 2)] * single
        bias = self.dense.bias
        for conv, step, shift in merged:
            taps = slice(reach - step, reach + step + 1, step)
            own = conv.weight.detach().view(self.groups, self.parts, *blocks.shape[2:3], *conv.weight.shape[1:])
            for part in range(self.parts):
                blocks[:, part, :, (part + shift) % self.parts, :, taps, taps] += own[:, part]
            bias = None if bias is None else bias.detach() + conv.bias.detach()
        dense = nn.Conv2d(
            self.in_channels,
            self.dense.out_channels,
            2 * reach + 1,
            self.dense.stride,
            padding=reach,
            groups=self.groups,
            bias=bias is not None,
        )
        dense.weight = nn.Parameter(kernel)
        if bias is not None:
            dense.bias = nn.Parameter(bias)
        self.dense, self.grouped = dense, None
        if single:
            self.shifted = None
            return f"merged three convolutions into one of {2 * reach + 1}x{2 * reach + 1}"
        return "merged the grouped convolution into the dense one"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PSConv2d")
        if self.grouped is None:
            y = self.dense(x)
            return y if self.shifted is None else y + self.shifted(x.index_select(1, self.swapped))
        weight = self.dense.weight
        if self.training:
            weight = torch.where(self.masked, weight.detach(), weight)
        y = F.conv2d(x, weight, self.dense.bias, self.dense.stride, 1, 1, self.groups)
        return self.grouped(x) + y + self.shifted(x.index_select(1, self.swapped))
