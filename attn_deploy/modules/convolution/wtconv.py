"""WTConv: small depthwise kernels on the levels of a wavelet transform, for a receptive field that doubles each level.

Paper: Wavelet Convolutions for Large Receptive Fields, ECCV 2024, arXiv:2407.05848.
Official: BGU-CS-VIL/WTConv, wtconv/wtconv2d.py (WTConv2d) and wtconv/util/wavelet.py; filters as PyWavelets gives them.
Export: the official code pads a level of odd size by a decision that both exporters bake, and such files fail at sizes of
    another parity. Here the analysis filters have a row and a column of zeros in front and one more of padding: odd and even
    sizes then take the same operators, without a Pad. The result of each level is cut to the level's size. Fused, the
    scales are in the convolutions. Equal up to rounding.
Deviations: even kernel sizes are refused. With a stride the base convolution computes only the positions that are kept.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_odd, require_positive, scale_conv_output_
from attn_deploy.registry import register

_R = math.sqrt(3)
# Low-pass synthesis filters; the high-pass ones and those of the analysis follow, the wavelets being orthogonal.
WAVELETS = {
    "db1": [1 / math.sqrt(2)] * 2,
    "haar": [1 / math.sqrt(2)] * 2,
    "db2": [n / (4 * math.sqrt(2)) for n in (1 + _R, 3 + _R, 3 - _R, 1 - _R)],
}
BANDS = 4


def wavelet_filters(wt_type: str, channels: int) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis filters (4 * channels, 1, f, f), with the bands LL, LH, HL and HH of each channel."""
    low = torch.tensor(WAVELETS[wt_type], dtype=torch.float64)
    high = low.flip(0) * torch.tensor([(-1.0) ** n for n in range(len(low))], dtype=torch.float64)
    pairs = ((low, low), (high, low), (low, high), (high, high))  # along H, along W
    bands = torch.stack([torch.outer(a, b) for a, b in pairs]).unsqueeze(1)
    filters = bands.repeat(channels, 1, 1, 1).float()
    return filters, filters.clone()


@register(
    "wtconv",
    aliases=("wtconv2d", "wavelet_conv", "wavelet_convolution"),
    parameters=10432,
)
class WTConv2d(Fusible, nn.Module):
    """Adds to a depthwise convolution those of the map's wavelet bands, level by level, transformed back.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: of every depthwise convolution.
        stride: step between the positions that are kept.
        bias: whether the base convolution has a bias.
        wt_levels: how often the map is halved.
        wt_type: "db1", which is also called "haar", or "db2".

    Raises:
        ValueError: if kernel_size is even, wt_type is unknown, or a number is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 5,
        stride: int = 1,
        bias: bool = True,
        wt_levels: int = 1,
        wt_type: str = "db1",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, stride=stride, wt_levels=wt_levels)
        require_odd(kernel_size=kernel_size)
        require_choice("wt_type", wt_type, WAVELETS)
        self.channels, self.stride, self.wt_levels = channels, stride, wt_levels
        analysis, synthesis = wavelet_filters(wt_type, channels)
        self.overlap = analysis.shape[2] // 2 - 1
        self.wt_filter = nn.Parameter(analysis, requires_grad=False)
        self.iwt_filter = nn.Parameter(synthesis, requires_grad=False)

        def depthwise(width: int, step: int = 1, bias: bool = False) -> nn.Conv2d:
            return nn.Conv2d(width, width, kernel_size, step, padding=kernel_size // 2, groups=width, bias=bias)

        self.base_conv = depthwise(channels, stride, bias)
        self.base_scale: nn.Parameter | None = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.wavelet_convs = nn.ModuleList(depthwise(BANDS * channels) for _ in range(wt_levels))
        self.wavelet_scale = nn.ParameterList(torch.full((1, BANDS * channels, 1, 1), 0.1) for _ in range(wt_levels))
        self.official_keys = {"base_scale.weight": "base_scale"}
        for level in range(wt_levels):
            self.official_keys[f"wavelet_scale.{level}.weight"] = f"wavelet_scale.{level}"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "WTConv2d")
        sizes, details = [], []
        low = x
        for level in range(self.wt_levels):
            sizes.append(low.shape[2:])
            bands = self._analysed(low)
            low = bands[:, ::BANDS]
            details.append(self._scaled(self.wavelet_convs[level](bands), level))
        deeper: Tensor | None = None
        for bands, (height, width) in zip(reversed(details), reversed(sizes), strict=True):
            deeper = self._synthesised(bands, deeper)
            deeper = F.pad(deeper, (0, width - deeper.shape[3], 0, height - deeper.shape[2]))
        base = self.base_conv(x)
        if self.base_scale is not None:
            base = base * self.base_scale
        step = self.stride
        return base + (deeper if step == 1 else deeper[:, :, ::step, ::step])

    def _analysed(self, x: Tensor) -> Tensor:
        """One level of the transform: (N, C, h, w) -> (N, 4C, ceil(h / 2), ceil(w / 2)), zeros beyond an odd end."""
        before, after = self.overlap, self.overlap + 1
        return F.conv2d(F.pad(x, (before, after, before, after)), self.wt_filter, stride=2, groups=self.channels)

    def _synthesised(self, bands: Tensor, low: Tensor | None) -> Tensor:
        """The inverse, with ``low`` added to the LL band."""
        if low is not None:
            grid = bands.reshape(bands.shape[0], self.channels, BANDS, bands.shape[2], bands.shape[3])
            joined = torch.cat((grid[:, :, :1] + low.unsqueeze(2), grid[:, :, 1:]), 2)
            bands = joined.reshape(bands.shape)
        return F.conv_transpose2d(bands, self.iwt_filter, stride=2, padding=self.overlap, groups=self.channels)

    def _scaled(self, bands: Tensor, level: int) -> Tensor:
        return bands if self.base_scale is None else bands * self.wavelet_scale[level]

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put every scale into the convolution before it."""
        if self.base_scale is None:
            return None
        scale_conv_output_(self.base_conv, self.base_scale)
        for conv, scale in zip(self.wavelet_convs, self.wavelet_scale, strict=True):
            scale_conv_output_(conv, scale)
        self.base_scale, self.wavelet_scale = None, nn.ParameterList()
        return f"folded {1 + self.wt_levels} scales into the convolutions"
