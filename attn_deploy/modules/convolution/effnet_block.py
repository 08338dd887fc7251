"""EffNet block.

Paper: EffNet: An Efficient Structure for Convolutional Neural Networks, ICIP 2018, arXiv:1801.06434.
Official: none was published; followed is andrijdavid/EffNet, effnet.py (make_layers), whose last kernel is its stride,
    as the paper says.
Export: Conv, MaxPool, LeakyRelu and BatchNormalization. The activation stands before each BatchNorm, so that only the
    last inner one folds, forward into the convolution that does not pad.
Deviations: arthurdouillard/keras-effnet ends with a (2, 1) kernel at stride (1, 2). BatchNorm's momentum is 0.01 here; the
    port copies the Keras number 0.99, which in PyTorch replaces the statistics at every step.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fold_bn_before_conv, is_traced, require_positive
from attn_deploy.registry import register


@register(
    "effnet_block",
    aliases=("effnet",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=13184,
    minimum={"H": 2, "W": 2},
)
class EffNetBlock(Fusible, nn.Module):
    """Halves the map, rows first by pooling, then columns by a strided convolution, around separated 1x3 and 3x1 filters.

    Shape: (N, C, H, W) -> (N, out_channels, floor(H / 2), floor(W / 2)); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        mid_channels: channels inside, None for C.
        negative_slope: of LeakyReLU.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if a channel count is below 1, negative_slope is not finite, or the map is lower or narrower than 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int | None = None,
        negative_slope: float = 0.3,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        mid = in_channels if mid_channels is None else mid_channels
        require_positive(in_channels=in_channels, out_channels=out_channels, mid_channels=mid)
        if not math.isfinite(negative_slope):
            raise ValueError(f"negative_slope must be a finite number, got {negative_slope}: use 0.3.")
        self.in_channels = in_channels

        def after(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.LeakyReLU(negative_slope), nn.BatchNorm2d(channels, eps=bn_eps, momentum=0.01))

        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, mid, 1, bias=False),
            after(mid),
            nn.Conv2d(mid, mid, (1, 3), padding=(0, 1), groups=mid, bias=False),
            after(mid),
            nn.MaxPool2d((2, 1), stride=(2, 1)),
            nn.Conv2d(mid, mid, (3, 1), padding=(1, 0), groups=mid, bias=False),
            after(mid),
            nn.Conv2d(mid, out_channels, (1, 2), stride=(1, 2), bias=False),
            after(out_channels),
        )

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"layers.{key}": value for key, value in state.items()}

    def fuse_(self) -> str | None:
        before, conv = self.layers[6], self.layers[7]
        if isinstance(before[1], nn.Identity):
            return None
        self.layers[7] = fold_bn_before_conv(before[1], conv)
        before[1] = nn.Identity()
        return "folded BatchNorm into the strided convolution after it"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "EffNetBlock")
        if not is_traced() and min(x.shape[2], x.shape[3]) < 2:
            raise ValueError(
                f"EffNetBlock: halves both axes, got a map of {x.shape[2]}x{x.shape[3]}: use one of at least 2x2."
            )
        return self.layers(x)
