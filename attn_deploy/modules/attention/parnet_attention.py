"""ParNet attention: the block of Non-deep Networks as a plug-in, in the form that people use.

Paper: Non-deep Networks, NeurIPS 2022, arXiv:2110.07641.
Official: none of this form; xmu-xiaoma666/External-Attention-pytorch, model/attention/ParNetAttention.py. The official
    block is `parnet_block`.
Export: Conv, Sigmoid, Mul and Add; nothing had to be replaced. Fused, both convolutions with their BatchNorms are one 3x3
    convolution.
Deviations: against the official block, the shortcut has no BatchNorm, and every convolution has a bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fold_bn_into_conv, global_avg_pool, require_positive
from attn_deploy.registry import register


@register("parnet_attention", aliases=("parnet",), parameters=45504)
class ParNetAttention(Fusible, nn.Module):
    """Adds a 1x1 convolution, a 3x3 convolution and the map under a channel gate.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.

    Raises:
        ValueError: if channels < 1.
    """

    official_keys = {"sse.1": "gate"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.gate = nn.Conv2d(channels, channels, 1)
        self.conv1x1 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.conv3x3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ParNetAttention")
        gated = x * self.gate(global_avg_pool(x)).sigmoid()
        convolved = self.conv1x1(x) + self.conv3x3(x) if self.fused is None else self.fused(x)
        return F.silu(convolved + gated)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """The 1x1 kernel is added to the middle of the 3x3 kernel."""
        if self.fused is not None:
            return None
        self.fused, point = fold_bn_into_conv(*self.conv3x3), fold_bn_into_conv(*self.conv1x1)
        self.fused.weight[:, :, 1:2, 1:2] += point.weight
        self.fused.bias += point.bias
        self.conv1x1 = self.conv3x3 = None
        return "merged two convolutions into one"
