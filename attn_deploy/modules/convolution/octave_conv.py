"""Octave convolution: a map in two frequencies, the lower at half the size, that exchange information.

Paper: Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with Octave Convolution, ICCV 2019,
    arXiv:1904.05049.
Official: facebookresearch/OctConv (MXNet); followed here is d-li14/octconv.pytorch, octconv.py (OctaveConv, Conv_BN,
    Conv_BN_ACT).
Export: nothing had to be replaced. The low map's contribution to the high one is convolved before it is enlarged, which is
    the cheap side. Fused, each BatchNorm is in the convolutions that feed its map. Equal up to rounding.
Deviations: padding is dilation * (kernel_size // 2) by default, 0 in the port. The port crashes for an alpha of 1 and may
    give its BatchNorm another width than its map; here an alpha of 1 is refused and the widths agree.
Limits: the high map's H and W must be even, and multiples of 4 with stride 2 and a low map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    activation,
    check_channels,
    require_choice,
    require_divisible,
    require_not_negative,
    require_positive,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.sizes import require_multiple_size, sizes_are_known
from attn_deploy.registry import Input, register

_REFERENCE = {"in_channels": 64, "out_channels": 64}
_PAIR = (
    Input("high", ("N", "in_channels - in_channels // 2", "2*H", "2*W")),
    Input("low", ("N", "in_channels // 2", "H", "W")),
)
_STRIDED = {"H": "stride", "W": "stride"}


@register(
    "octave_conv_last",
    reference={**_REFERENCE, "alpha_out": 0.0},
    parameters=36864,
    inputs=_PAIR,
    multiple=_STRIDED,
    summary="Octave convolution that joins both frequencies into one map, as the last of a network does.",
)
@register(
    "octave_conv_first",
    reference={**_REFERENCE, "alpha_in": 0.0},
    parameters=36864,
    inputs=(Input("high", ("N", "in_channels", "H", "W")),),
    outputs=("y_high", "y_low"),
    multiple={"H": "2 * stride", "W": "2 * stride"},
    summary="Octave convolution that splits one map into two frequencies, as the first of a network does.",
)
@register(
    "octave_conv",
    aliases=("octconv", "octave_conv2d"),
    reference=_REFERENCE,
    parameters=36864,
    inputs=_PAIR,
    outputs=("y_high", "y_low"),
    multiple=_STRIDED,
)
class OctaveConv2d(Fusible, nn.Module):
    """Convolves a map of high and one of low frequency, each from both, the low one at half the size.

    Shape: (N, C_in - int(alpha_in * C_in), 2H, 2W), (N, int(alpha_in * C_in), H, W) -> a map of C_out - int(alpha_out *
    C_out) channels and one of int(alpha_out * C_out) at half its size; dynamic N, H, W. With alpha_in=0 there is no
    second input, with alpha_out=0 no second output.

    Args:
        in_channels: C_in, of both inputs.
        out_channels: C_out, of both outputs.
        kernel_size: of every convolution.
        alpha_in: share of the input channels that is of low frequency.
        alpha_out: share of the output channels that is of low frequency.
        stride: 1, or 2 for averages over 2x2 first.
        padding: zeros on every side; None keeps the size.
        dilation: distance of the taps.
        groups: groups of channels; with in_channels, the two frequencies stay apart.
        bias: whether the convolutions have a bias.
        norm: whether BatchNorm follows, on each output map.
        act: activation at the end: "relu", "relu6", "silu", "gelu", "hardswish", or None.

    Raises:
        ValueError: if an alpha is outside 0..1, is 1 or leaves no low channel, stride is not 1 or 2, the padding would
            give maps of different size, groups does not divide the channels, act is unknown, or an input is missing, of
            another size, or odd.
    """

    official_keys = {"conv": ""}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = False,
        act: str | None = None,
    ) -> None:
        super().__init__()
        require_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            dilation=dilation,
            groups=groups,
        )
        require_not_negative(padding=padding or 0)
        require_choice("stride", stride, (1, 2))
        low_in = _low_channels("alpha_in", alpha_in, "in_channels", in_channels)
        low_out = _low_channels("alpha_out", alpha_out, "out_channels", out_channels)
        high_in, high_out = in_channels - low_in, out_channels - low_out
        depthwise = groups == in_channels > 1
        if depthwise and bool(low_in) != bool(low_out):
            raise ValueError(
                f"groups == in_channels == {groups} keeps the frequencies apart, which needs a low map on both sides or "
                f"on none, got alpha_in={alpha_in} and alpha_out={alpha_out}."
            )
        padding = dilation * (kernel_size // 2) if padding is None else padding
        joins = low_in > 0 and not depthwise and stride == 1
        if joins and 2 * padding != dilation * (kernel_size - 1):
            raise ValueError(
                f"padding must keep the size where a low map is enlarged and added, got padding={padding} for "
                f"kernel_size={kernel_size} and dilation={dilation}: use an odd kernel and padding=None."
            )

        def conv(ins: int, outs: int, parts: int) -> nn.Conv2d | None:
            if not ins or not outs:
                return None
            require_divisible("the input channels of a frequency", ins, "its groups", parts)
            require_divisible("the output channels of a frequency", outs, "its groups", parts)
            return nn.Conv2d(ins, outs, kernel_size, padding=padding, dilation=dilation, groups=parts, bias=bias)

        self.high_channels, self.low_channels, self.stride = high_in, low_in, stride
        self.gives_low = low_out > 0
        self.conv_l2l = conv(low_in, low_out, math.ceil(alpha_in * groups) or 1)
        self.conv_l2h = None if depthwise else conv(low_in, high_out, groups)
        self.conv_h2l = None if depthwise else conv(high_in, low_out, groups)
        self.conv_h2h = conv(high_in, high_out, math.ceil(groups - alpha_in * groups))
        self.bn_h = nn.BatchNorm2d(high_out) if norm else None
        self.bn_l = nn.BatchNorm2d(low_out) if norm and low_out else None
        self.act = None if act is None else activation(act)

    def forward(self, high: Tensor, low: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        self._check(high, low)
        if self.stride == 2:
            high = F.avg_pool2d(high, 2)
        y_high = self.conv_h2h(high)
        if self.conv_l2h is not None:
            exchange = self.conv_l2h(low)
            if self.stride == 1:
                exchange = F.interpolate(exchange, scale_factor=2.0, mode="nearest")
            y_high = y_high + exchange
        y_high = self._finished(y_high, self.bn_h)
        if not self.gives_low:
            return y_high
        parts = []
        if self.conv_l2l is not None:
            parts.append(self.conv_l2l(F.avg_pool2d(low, 2) if self.stride == 2 else low))
        if self.conv_h2l is not None:
            parts.append(self.conv_h2l(F.avg_pool2d(high, 2)))
        y_low = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return y_high, self._finished(y_low, self.bn_l)

    def _finished(self, y: Tensor, norm: nn.Module | None) -> Tensor:
        y = y if norm is None else norm(y)
        return y if self.act is None else self.act(y)

    def _check(self, high: Tensor, low: Tensor | None) -> None:
        check_channels(high, self.high_channels, "OctaveConv2d")
        if (low is None) != (self.low_channels == 0):
            raise ValueError(
                f"OctaveConv2d: made for {self.low_channels} low channels, but the low map given is "
                f"{'none' if low is None else f'one of shape {tuple(low.shape)}'}: use alpha_in=0 for a single map."
            )
        halvings = self.stride * (2 if self.gives_low or low is not None else 1)
        if low is None:
            require_multiple_size(high, halvings, "OctaveConv2d")
            return
        check_channels(low, self.low_channels, "OctaveConv2d")
        require_multiple_size(high, halvings, "OctaveConv2d")
        expected = (high.shape[0], high.shape[2] // 2, high.shape[3] // 2)
        if sizes_are_known() and (low.shape[0], *low.shape[2:]) != expected:
            raise ValueError(
                f"OctaveConv2d: the low map must have the batch and half the size of the high one, got high "
                f"{tuple(high.shape)} and low {tuple(low.shape)}: pool it to {expected[1]}x{expected[2]}."
            )

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Scale both convolutions that feed a map by its BatchNorm, and shift in one of them."""
        if self.bn_h is None:
            return None
        count = 0
        for norm, convs in (
            (self.bn_h, (self.conv_h2h, self.conv_l2h)),
            (self.bn_l, (self.conv_l2l, self.conv_h2l)),
        ):
            if norm is None:
                continue
            scale, shift = scale_and_shift(norm, dtype=torch.float64)
            for conv in [c for c in convs if c is not None]:
                bias = 0.0 if conv.bias is None else conv.bias.double()
                conv.weight.copy_(conv.weight.double() * scale.reshape(-1, 1, 1, 1))
                conv.bias = nn.Parameter((bias * scale + shift).to(conv.weight.dtype))
                shift = torch.zeros_like(shift)
            count += 1
        self.bn_h = self.bn_l = None
        return f"folded {count} BatchNorm{'s' * (count > 1)} into the convolutions that feed each map"


def _low_channels(name: str, alpha: float, owner: str, channels: int) -> int:
    if not 0 <= alpha < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, got {alpha}: 0 has no map of low frequency, 0.5 gives it half of the "
            "channels."
        )
    low = int(alpha * channels)
    if alpha and not low:
        raise ValueError(
            f"int({name} * {owner}) must be at least 1, got {name}={alpha} and {owner}={channels}: use {name}=0 or "
            f"at least {1 / channels:.3g}."
        )
    return low
