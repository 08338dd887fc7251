"""Efficient Multi-Scale Attention.

Paper: Efficient Multi-Scale Attention Module with Cross-Spatial Learning, ICASSP 2023, arXiv:2305.13563.
Official: YOLOonMe/EMA-attention-module, EMA_attention_module (EMA).
Export: the strips are means (the usual adaptive pools are exported with the traced size baked in: wrong numbers at every
    other size, without a word), and the normalisation is written out. The mean of a normalised channel is its bias, so
    that one of the two softmaxes does not depend on the input; its branch, a fixed mixture of the 3x3 convolution's
    channels, is one convolution to one channel. The other softmax needs only the mean of the 3x3 convolution's output,
    which the sums of the map and of its four borders give. Equal up to rounding, also in training.
Deviations: the copies in YOLO forks use 8 groups by default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_positive, strip_means
from attn_deploy.registry import register


def _mean_patch(x: Tensor, columns: Tensor) -> Tensor:
    """The mean over all positions of the 3x3 window around each, zeros outside: (N, C, H, W) -> (N, C, 3, 3).

    Convolved with a 3x3 kernel it gives the mean of the padded convolution of ``x``. A window that is shifted by one
    row leaves out the first or the last row, which is taken off the mean of each column; columns likewise.
    """
    height, width = x.shape[2], x.shape[3]
    upper, lower = columns - x[:, :, -1:] / height, columns - x[:, :, :1] / height
    rows = torch.cat([upper, columns, lower], 2)
    mean = rows.mean(3, keepdim=True)
    return torch.cat([mean - rows[:, :, :, -1:] / width, mean, mean - rows[:, :, :, :1] / width], 3)


@register(
    "ema",
    aliases=("ema_attention", "efficient_multi_scale_attention"),
    reference={"channels": 64, "factor": 8},
    parameters=672,
)
class EMA(Fusible, nn.Module):
    """Gates the positions of each channel group by two branches, each weighted by the average of the other.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        factor: number of groups, which share all parameters.

    Raises:
        ValueError: if channels is not a multiple of factor.
    """

    official_keys = {"gn.weight": "norm_weight", "gn.bias": "norm_bias"}

    def __init__(self, channels: int, *, factor: int = 32) -> None:
        super().__init__()
        require_positive(channels=channels, factor=factor)
        require_divisible("channels", channels, "factor", factor)
        self.channels, self.factor = channels, factor
        width = self.width = channels // factor
        self.eps = 1e-5
        self.norm_weight = nn.Parameter(torch.ones(1, width, 1, 1))
        self.norm_bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)
        self.mixed: nn.Conv2d | None = None

    def _mixed_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the 3x3 convolution's channels, mixed by the softmax that does not depend on the input."""
        mixture = self.norm_bias.softmax(1)
        weight = (self.conv3x3.weight * mixture.reshape(-1, 1, 1, 1)).sum(0, keepdim=True)
        return weight, (self.conv3x3.bias * mixture.flatten()).sum().reshape(1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "EMA")
        height, width = x.shape[2], x.shape[3]
        groups = x.reshape(x.shape[0] * self.factor, self.width, height, width)
        rows, columns = strip_means(groups)
        gated = groups * self.conv1x1(rows).sigmoid() * self.conv1x1(columns).sigmoid()
        centred = gated - gated.mean((2, 3), keepdim=True)
        variance = (centred * centred).mean((2, 3), keepdim=True)
        # The mean of the 3x3 convolution weighs the normalised channels.
        patch = _mean_patch(groups, columns)
        weights = F.conv2d(patch, self.conv3x3.weight, self.conv3x3.bias).softmax(1)
        scale = (weights * self.norm_weight / (variance + self.eps).sqrt()).reshape(-1, 1, self.width)
        shift = (weights * self.norm_bias).sum(1, keepdim=True)
        logits = torch.matmul(scale, centred.flatten(2)).reshape(-1, 1, height, width) + shift
        if self.mixed is None:
            logits = logits + F.conv2d(groups, *self._mixed_kernel(), padding=1)
        else:
            logits = logits + self.mixed(groups)
        return (groups * logits.sigmoid()).reshape(x.shape[0], self.channels, height, width)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Keep the mixed 3x3 kernel as a convolution of its own."""
        if self.mixed is not None:
            return None
        weight, bias = self._mixed_kernel()
        self.mixed = nn.Conv2d(self.width, 1, 3, padding=1)
        self.mixed.weight, self.mixed.bias = nn.Parameter(weight), nn.Parameter(bias)
        return "merged the fixed mixture of the 3x3 convolution's channels into one kernel"
