"""LayerNorm over the channels of a map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops.bounded import in_half_range


def layer_norm_2d(x: Tensor, channels: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-6) -> Tensor:
    """Each position to zero mean and unit variance over the channels (biased variance), then scale and shift.

    Between two permutations: means over the second axis of four cost ONNX Runtime three times as much on a CPU as both
    permutations and its own LayerNormalization over the last axis. In fp16 the differences from the mean are taken
    relative to the largest of them, without a permutation, so that no square leaves the range.

    Args:
        x: map (N, C, H, W).
        channels: C.
        weight: C factors, or None.
        bias: C shifts, or None.
        eps: added to the variance.
    """
    if in_half_range(x):
        return _in_half_range(x, weight, bias, eps)
    return F.layer_norm(x.permute(0, 2, 3, 1), (channels,), weight, bias, eps).permute(0, 3, 1, 2)


def _in_half_range(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    largest = centred.abs().amax(1, keepdim=True)
    largest = largest + (largest == 0).to(x.dtype)
    centred = centred / largest
    least = math.sqrt(eps) / largest
    y = centred * ((centred * centred).mean(1, keepdim=True) + least * least).rsqrt()
    if weight is not None:
        y = y * weight.reshape(1, -1, 1, 1)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


class LayerNormOverChannels(nn.Module):
    """LayerNorm over the channels of a map; the scale and shift go once they are folded into the next layer.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        template = nn.LayerNorm(channels)
        self.channels, self.eps = channels, eps
        self.weight: nn.Parameter | None = template.weight
        self.bias: nn.Parameter | None = template.bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position."""
        return layer_norm_2d(x, self.channels, self.weight, self.bias, self.eps)

    @torch.no_grad()
    def fold_into_(self, conv: nn.Conv2d) -> None:
        """Put the scale and shift into the 1x1 convolution with bias that follows, in place."""
        if self.weight is None or self.bias is None or conv.bias is None:
            return
        weight = conv.weight.double()
        conv.bias.copy_(conv.bias.double() + weight.flatten(1) @ self.bias.double())
        conv.weight.copy_(weight * self.weight.double().reshape(1, -1, 1, 1))
        self.weight = self.bias = None
