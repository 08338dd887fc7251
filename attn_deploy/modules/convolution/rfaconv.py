"""Receptive-field attention convolutions: each window's taps get weights of their own before they are summed.

Paper: RFAConv: Innovating Spatial Attention and Standard Convolutional Operation, 2023, arXiv:2304.03198.
Official: Liuchen1997/RFAConv, model.py: the first of its two classes RFAConv (the second, which hides it on import, unfolds;
    paper and experiments use the first), RFCAConv and RFCBAMConv.
Export: the official code lays the k x k taps of each window out as a map k times higher and wider and convolves that with
    stride k. Here taps stay channels and the last convolution is 1x1 over C * k * k of them. Strips are means, where the
    official adaptive pooling exports with wrong values at other sizes. Fused, pooling and its 1x1 are one convolution and
    no BatchNorm is left. Equal up to rounding.
Deviations: the official RFCBAMConv cannot be constructed (nn.ReLu); here it is ReLU. Its ratio=16 is the width of the
    hidden layer, not a factor, as the official code uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    global_avg_pool,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}
STRIP_REDUCTION, LEAST_STRIP_WIDTH = 32, 8


def _taps(in_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    """One learned filter for each channel and tap, normalised: (N, C, H, W) -> (N, C * k * k, H', W')."""
    taps = in_channels * kernel_size**2
    conv = nn.Conv2d(in_channels, taps, kernel_size, stride, kernel_size // 2, groups=in_channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(taps), nn.ReLU())


class _OverTaps(nn.Module):
    """What the three convolutions share: arguments, and the sum over windows as a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_odd(kernel_size=kernel_size)
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride
        self.generate = _taps(in_channels, kernel_size, stride)
        conv = nn.Conv2d(in_channels * kernel_size**2, out_channels, 1)
        nn.init.kaiming_uniform_(conv.weight, a=5**0.5)
        self.conv = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU()) if norm else nn.Sequential(conv)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A k x k kernel with stride k over the enlarged map is a 1x1 kernel over its taps."""
        return {k: v.flatten(1).unsqueeze(2).unsqueeze(3) if k == "conv.0.weight" else v for k, v in state.items()}


@register("rfaconv", aliases=("rfa_conv",), reference=_REFERENCE, parameters=43968)
class RFAConv(Fusible, _OverTaps):
    """Weighs the taps of each window, channel by channel, with a softmax of the window's averages, and convolves them.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, the side of the windows.
        stride: step of the windows.

    Raises:
        ValueError: if kernel_size is even, or another number is below 1.
    """

    official_keys = {"get_weight.1": "get_weight", "generate_feature": "generate"}

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, norm=True)
        self.get_weight = nn.Conv2d(in_channels, in_channels * kernel_size**2, 1, groups=in_channels, bias=False)
        self.pools = True

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Pooling and the 1x1 filters behind it as one convolution with equal taps."""
        if not self.pools:
            return None
        side, taps = self.kernel_size, self.get_weight.out_channels
        conv = nn.Conv2d(self.in_channels, taps, side, self.stride, side // 2, groups=self.in_channels, bias=False).to(
            self.get_weight.weight
        )
        conv.weight.copy_((self.get_weight.weight.double() / side**2).expand(-1, -1, side, side))
        self.get_weight, self.pools = conv.eval(), False
        return "merged the pooling into the convolution of the weights"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RFAConv")
        side = self.kernel_size
        averages = F.avg_pool2d(x, side, self.stride, side // 2) if self.pools else x
        logits = self.get_weight(averages)
        height, width = logits.shape[2], logits.shape[3]
        weights = logits.reshape(-1, self.in_channels, side * side, height, width).softmax(2)
        taps = self.generate(x) * weights.reshape(-1, self.in_channels * side * side, height, width)
        return self.conv(taps)


@register("rfcaconv", aliases=("rfca_conv",), reference=_REFERENCE, parameters=44952)
class RFCAConv(_OverTaps):
    """Gates the enlarged map of all windows' taps by its rows' and columns' means, and convolves the windows.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, the side of the windows.
        stride: step of the windows.

    Raises:
        ValueError: if kernel_size is even, or another number is below 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, norm=False)
        width = max(LEAST_STRIP_WIDTH, in_channels // STRIP_REDUCTION)
        self.strips = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width), nn.Hardswish())
        self.conv_h = nn.Conv2d(width, in_channels, 1)
        self.conv_w = nn.Conv2d(width, in_channels, 1)

    official_keys = {"conv1": "strips.0", "bn1": "strips.1"}

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RFCAConv")
        side = self.kernel_size
        taps = self.generate(x)
        height, width = taps.shape[2], taps.shape[3]
        taps = taps.reshape(-1, self.in_channels, side, side, height, width)
        # Row h * k + i of the enlarged map is row i of tap row h. Both strips pass one convolution, so that a BatchNorm
        # in training has the statistics of both.
        strips = self.strips(torch.cat([taps.mean((3, 5)), taps.mean((2, 4))], 3))
        rows = self.conv_h(strips[:, :, :, :height]).sigmoid().unsqueeze(3).unsqueeze(5)
        columns = self.conv_w(strips[:, :, :, height:]).sigmoid().unsqueeze(2).unsqueeze(4)
        gated = taps * rows * columns
        return self.conv(gated.reshape(-1, self.in_channels * side * side, height, width))


@register("rfcbamconv", aliases=("rfcbam_conv",), reference=_REFERENCE, parameters=45458)
class RFCBAMConv(_OverTaps):
    """Gates the enlarged map of all windows' taps by channel and by position, as CBAM does, and convolves the windows.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, the side of the windows.
        stride: step of the windows.
        ratio: width of the channel gate's hidden layer.

    Raises:
        ValueError: if kernel_size is even, or another number is below 1.
    """

    official_keys = {"get_weight.0": "get_weight", "se.fc.0": "reduce", "se.fc.2": "expand"}

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, ratio: int = 16
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, norm=True)
        require_positive(ratio=ratio)
        self.reduce = nn.Conv2d(in_channels, ratio, 1, bias=False)
        self.expand = nn.Conv2d(ratio, in_channels, 1, bias=False)
        self.get_weight = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RFCBAMConv")
        side = self.kernel_size
        taps = self.generate(x)
        height, width = taps.shape[2], taps.shape[3]
        taps = taps.reshape(-1, self.in_channels, side * side, height, width)
        summary = torch.cat([taps.amax(1), taps.mean(1)], 1)  # of each place of the enlarged map
        gate = F.pixel_unshuffle(self.get_weight(F.pixel_shuffle(summary, side)), side).sigmoid().unsqueeze(1)
        channel = self.expand(self.reduce(global_avg_pool(x)).relu()).sigmoid().unsqueeze(2)
        gated = taps * (gate * channel)
        return self.conv(gated.reshape(-1, self.in_channels * side * side, height, width))
