"""CARAFE: up-sampling whose kernel at each place is predicted from the content.

Paper: CARAFE: Content-Aware ReAssembly of FEatures, ICCV 2019, arXiv:1905.02188.
Official: open-mmlab/mmcv, mmcv/ops/carafe.py (CARAFEPack), whose operator exists for CUDA only.
Export: the operator is a batched product: the window of each place, taken by a convolution with a one-hot kernel, times
    the kernels of its scale_factor^2 outputs, and one pixel shuffle at the end. The map is never enlarged before the sum,
    as copies in plain PyTorch do. Equal up to rounding.
Limits: memory grows with up_kernel^2 * C * H * W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_odd, require_positive
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register


@register("carafe", aliases=("carafe_pack", "carafe_upsample"), parameters=61860)
class CARAFE(nn.Module):
    """Makes each output pixel a softmax-weighted sum over the window around its source, with predicted weights.

    Shape: (N, C, H, W) -> (N, C, scale_factor * H, scale_factor * W); dynamic N, H, W.

    Args:
        channels: C.
        scale_factor: how many times higher and wider the output is.
        up_kernel: side of the window that is summed over.
        up_group: groups of channels with weights of their own.
        encoder_kernel: side of the convolution that predicts the weights.
        encoder_dilation: distance of its taps.
        compressed_channels: channels that it reads.

    Raises:
        ValueError: if a number is below 1, a kernel is even, or up_group does not divide channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        require_positive(
            channels=channels,
            scale_factor=scale_factor,
            encoder_dilation=encoder_dilation,
            compressed_channels=compressed_channels,
        )
        require_odd(up_kernel=up_kernel, encoder_kernel=encoder_kernel)
        require_divisible("channels", channels, "up_group", up_group)
        self.channels, self.scale_factor, self.up_group = channels, scale_factor, up_group
        self.taps = up_kernel * up_kernel
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            self.taps * up_group * scale_factor**2,
            encoder_kernel,
            padding=encoder_dilation * (encoder_kernel // 2),
            dilation=encoder_dilation,
        )
        self.window = Unfold(channels, up_kernel, padding=up_kernel // 2)
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.zeros_(self.channel_compressor.bias)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        nn.init.zeros_(self.content_encoder.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "CARAFE")
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        groups, taps, outputs = self.up_group, self.taps, self.scale_factor**2
        logits = self.content_encoder(self.channel_compressor(x))
        weights = logits.reshape(batch, groups, taps, outputs, height * width).softmax(2)
        windows = self.window(x).reshape(batch, groups, self.channels // groups, taps, height * width)
        sums = torch.matmul(windows.permute(0, 1, 4, 2, 3), weights.permute(0, 1, 4, 2, 3))
        maps = sums.permute(0, 1, 3, 4, 2).reshape(batch, self.channels * outputs, height, width)
        return F.pixel_shuffle(maps, self.scale_factor)
