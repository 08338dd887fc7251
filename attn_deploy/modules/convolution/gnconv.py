"""Recursive gated convolution (gnConv) of HorNet.

Paper: HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions, NeurIPS 2022,
    arXiv:2207.14284.
Official: raoyongming/HorNet, hornet.py (gnconv, GlobalLocalFilter).
Export: nothing had to be replaced with the 7x7 convolution; the global filter's transforms are matrix products with
    tables of cosines, made in the graph from H and W, instead of rfft2. Equal up to rounding. Fusing puts the scale into
    the depthwise layer.
Limits: the result is a product of order + 1 features, which leaves the range of fp16 for large inputs unless a global
    filter normalises them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    require_choice,
    require_divisible,
    require_multiple,
    require_positive,
)
from attn_deploy.ops.fourier import dft_tables, filter_frequencies
from attn_deploy.ops.layer_norm_2d import LayerNormOverChannels
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import register

LAYERS = (None, "global_local")


class GlobalLocalFilter(nn.Module):
    """A 3x3 depthwise convolution of half of the channels and a filter of the whole map for the others, interleaved.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: C, even.
        height: H for which the weight is made.
        width: W for which the weight is made.
    """

    across: Tensor
    down: Tensor
    back: Tensor

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        half = channels // 2
        self.channels, self.size = channels, (height, width)
        self.dw = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.complex_weight = nn.Parameter(torch.empty(half, height, width // 2 + 1, 2))
        nn.init.trunc_normal_(self.complex_weight, std=0.02)
        self.pre_norm = LayerNormOverChannels(channels, eps=1e-6)
        self.post_norm = LayerNormOverChannels(channels, eps=1e-6)
        for name, table in zip(("across", "down", "back"), dft_tables(height, width), strict=True):
            self.register_buffer(name, table.float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter one map."""
        local, whole = split_channels(self.pre_norm(x), (self.channels // 2,) * 2)
        height, width = x.shape[2], x.shape[3]
        weight, tables = self.complex_weight.permute(3, 0, 1, 2), (self.across, self.down, self.back)
        if not sizes_are_known() or (height, width) != self.size:
            weight = F.interpolate(weight, size=(height, width // 2 + 1), mode="bilinear", align_corners=True)
            tables = tuple(t.to(x.dtype) for t in dft_tables(height, width, dtype=torch.float32, device=x.device))
        pairs = torch.stack([self.dw(local), filter_frequencies(whole, weight, tables)], 2)
        return self.post_norm(pairs.reshape(-1, self.channels, x.shape[2], x.shape[3]))


@register("gnconv", aliases=("recursive_gated_conv", "recursive_gated_convolution", "hornet"), parameters=21520)
@register(
    "gnconv_gf",
    aliases=("gnconv_global_local",),
    reference={"channels": 64, "gflayer": "global_local", "height": 14, "width": 14},
    parameters=30262,
    summary="gnConv with a filter of the whole map and a 3x3 convolution in place of the 7x7 one.",
)
class GnConv(Fusible, nn.Module):
    """Gates channels by depthwise features again and again, each time with twice as many, for interactions of high order.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        order: number of gatings; the first has C / 2 ** (order - 1) channels.
        scale: factor on the depthwise features.
        gflayer: None for a 7x7 depthwise convolution, or "global_local".
        height: H of the maps for which the weight of "global_local" is made, else without effect; for other maps it is
            resized.
        width: W of those maps.

    Raises:
        ValueError: if channels is not a multiple of 2 ** (order - 1), gflayer is unknown, or height or width is missing.
    """

    def __init__(
        self,
        channels: int,
        *,
        order: int = 5,
        scale: float = 1.0,
        gflayer: str | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, order=order)
        require_divisible("channels", channels, "2 ** (order - 1)", 2 ** (order - 1))
        require_choice("gflayer", gflayer, LAYERS)
        self.channels, self.scale = channels, scale
        self.widths = [channels // 2**i for i in reversed(range(order))]
        total = sum(self.widths)
        self.proj_in = nn.Conv2d(channels, self.widths[0] + total, 1)
        if gflayer is None:
            self.dwconv: nn.Module = nn.Conv2d(total, total, 7, padding=3, groups=total)
        else:
            if height is None or width is None:
                raise ValueError(
                    f"height and width must be given for gflayer={gflayer!r}, got {height} and {width}: its weight is as "
                    "large as the map."
                )
            require_positive(height=height, width=width)
            why = f"halves of the gatings' {total} channels are filtered apart; or use a lower order than {order}"
            require_multiple("channels", channels, 2**order, why)
            self.dwconv = GlobalLocalFilter(total, height, width)
        self.pws = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(self.widths, self.widths[1:], strict=False))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GnConv")
        first, features = torch.split(self.proj_in(x), [self.widths[0], sum(self.widths)], 1)
        features = self.dwconv(features)
        if self.scale != 1.0:
            features = features * self.scale
        gates = torch.split(features, self.widths, 1)
        y = first * gates[0]
        for widen, gate in zip(self.pws, gates[1:], strict=True):
            y = widen(y) * gate
        return self.proj_out(y)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the scale into the layer that it multiplies."""
        if self.scale == 1.0:
            return None
        last = self.dwconv.post_norm if isinstance(self.dwconv, GlobalLocalFilter) else self.dwconv
        last.weight *= self.scale
        last.bias *= self.scale
        self.scale = 1.0
        return "put the scale into the depthwise layer"
