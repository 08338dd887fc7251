"""Outlook attention of VOLO.

Paper: VOLO: Vision Outlooker for Visual Recognition, TPAMI 2022, arXiv:2106.13112.
Official: sail-sg/volo, models/volo.py (OutlookAttention); its input is (N, H, W, C).
Export: linear layers are 1x1 convolutions, unfold is a depthwise convolution with a one-hot kernel and fold the transposed
    convolution with the same one: Col2Im enters ONNX at opset 18. Equal up to rounding. Fusing puts the scale into the
    layer that makes the weights.
Deviations: External-Attention gives nn.Unfold its arguments in the wrong places: it is right for stride 1 only, and fails
    at stride 2.
Limits: the windows take kernel_size ** 2 * C values for each position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_odd, require_positive
from attn_deploy.ops.ceil_pooling import ceil_avg_pool2d
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register


@register(
    "outlook_attention",
    aliases=("outlooker_attention", "outlook_attn", "outlook", "outlooker", "volo"),
    reference={"channels": 64, "num_heads": 4},
    parameters=29316,
)
class OutlookAttention(Fusible, nn.Module):
    """Mixes the values inside each position's window by weights made from the position alone, and sums the overlaps.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_heads: heads that C is cut into.
        kernel_size: k of the window.
        padding: zeros on every side, k // 2.
        stride: step of the windows.
        qkv_bias: whether the values have a bias.
        qk_scale: factor of the logits; (C / num_heads) ** -0.5 by default.

    Raises:
        ValueError: if num_heads does not divide channels, kernel_size is even, or padding is not kernel_size // 2.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        kernel_size: int = 3,
        padding: int = 1,
        stride: int = 1,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads, stride=stride)
        require_divisible("channels", channels, "num_heads", num_heads)
        require_odd(kernel_size=kernel_size)
        if padding != kernel_size // 2:
            raise ValueError(
                f"padding must be kernel_size // 2, got padding={padding} and kernel_size={kernel_size}: use "
                f"padding={kernel_size // 2}, so that there is a window for each weight."
            )
        self.channels, self.num_heads, self.head_dim = channels, num_heads, channels // num_heads
        self.stride, self.padding, self.places = stride, padding, kernel_size * kernel_size
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.v = nn.Conv2d(channels, channels, 1, bias=qkv_bias)
        self.attn = nn.Conv2d(channels, num_heads * self.places**2, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.windows = Unfold(channels, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "OutlookAttention")
        logits = self.attn(ceil_avg_pool2d(x, self.stride))
        if self.scale != 1.0:
            logits = logits * self.scale
        height, width = logits.shape[2], logits.shape[3]
        weights = logits.reshape(x.shape[0], self.num_heads, self.places, self.places, -1)
        weights = weights.permute(0, 1, 4, 2, 3).softmax(4)  # (N, heads, windows, places, places)
        values = self.windows(self.v(x)).reshape(x.shape[0], self.num_heads, self.head_dim, self.places, -1)
        mixed = torch.matmul(weights, values.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        mixed = mixed.reshape(x.shape[0], self.channels * self.places, height, width)
        return self.proj(self._folded(mixed, x))

    def _folded(self, patches: Tensor, x: Tensor) -> Tensor:
        """The sum of overlapping windows, at the size of x."""
        y = F.conv_transpose2d(
            patches,
            self.windows.weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.stride - 1,
            groups=self.channels,
        )
        return y if self.stride == 1 else y[:, :, : x.shape[2], : x.shape[3]]

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the scale into the layer that makes the weights."""
        if self.scale == 1.0:
            return None
        self.attn.weight *= self.scale
        self.attn.bias *= self.scale
        self.scale = 1.0
        return "put the scale into the weights' layer"
