"""Rendering transformer of the Feature Pyramid Transformer: a coarse map takes detail from a finer one, bottom-up.

Paper: Feature Pyramid Transformer, ECCV 2020, arXiv:2007.09451.
Official: ZHANGDONG-NJUST/FPT, lib/modeling/rendering_trans.py (RenderTrans).
Export: the global pooling is a mean instead of an average pooling with a window read from the shape. Equal up to
    rounding.
Deviations: the official block owns layers that it never applies (conv_upsample, conv_reduction, conv_cat); they are left
    out: 78208 parameters instead of 90496 with upsample=False and 151936 with upsample=True. Its flag upsample only
    chooses which of two BatchNorms is applied, so there is no such argument; checkpoints of both kinds load. stride is
    ours: the official block takes a map of twice the size, though the released network gives it others, and fails.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, conv_bn_relu, global_avg_pool, require_positive
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register


@register(
    "fpt_render_trans",
    parameters=78208,
    inputs=(Input("high", ("N", "channels", "H", "W")), Input("low", ("N", "low_channels", "stride*H", "stride*W"))),
    reference={"channels": 64, "low_channels": 64},
)
class FPTRenderingTransformer(nn.Module):
    """Gates a coarse map by the pooled finer map, and adds the finer map's strided convolution.

    Shape: coarse (N, C, H, W), fine (N, low_channels, stride * H, stride * W) -> (N, C, H, W); a fine map up to
    stride - 1 smaller fits too. Dynamic N, H, W.

    Args:
        channels: C, of the coarse map.
        low_channels: channels of the fine map; C by default.
        stride: how many times finer the fine map is.

    Raises:
        ValueError: if the sizes of the two maps do not fit.
    """

    official_keys = {
        "conv1x1": "gate.0",
        "bn_low": "gate.1",
        "conv3x3": "coarse.0",
        "bn_high": "coarse.1",
        "str_conv3x3": "fine.0",
        "bn_reduction": "fine.1",
        "bn_upsample": "fine.1",
        "conv_upsample": None,
        "conv_reduction": None,
        "conv_cat": None,
    }

    def __init__(self, channels: int, *, low_channels: int | None = None, stride: int = 2) -> None:
        super().__init__()
        low_channels = channels if low_channels is None else low_channels
        require_positive(channels=channels, low_channels=low_channels, stride=stride)
        self.channels, self.low_channels, self.stride = channels, low_channels, stride
        self.gate = conv_bn_relu(low_channels, channels)
        self.coarse = conv_bn_relu(channels, channels, 3, relu=False)
        self.fine = conv_bn_relu(low_channels, channels, 3, stride=stride, relu=False)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        check_channels(high, self.channels, "FPTRenderingTransformer")
        check_channels(low, self.low_channels, "FPTRenderingTransformer")
        if sizes_are_known():
            self._check_sizes(high, low)
        return (self.fine(low) + self.coarse(high) * self.gate(global_avg_pool(low))).relu()

    def _check_sizes(self, high: Tensor, low: Tensor) -> None:
        rendered = tuple((n - 1) // self.stride + 1 for n in low.shape[2:])
        if rendered != tuple(high.shape[2:]):
            raise ValueError(
                f"FPTRenderingTransformer: with stride={self.stride} a fine map of {low.shape[2]}x{low.shape[3]} fits a "
                f"coarse map of {rendered[0]}x{rendered[1]}, got {high.shape[2]}x{high.shape[3]}: resize one of them, "
                "or set stride to their ratio."
            )
