"""Global response normalisation: a channel's energy over the map, relative to the mean of all channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops.bounded import in_half_range

EPS = 1e-6
_TINY = 1e-30  # the square root keeps a gradient where a whole channel is zero


def relative_response(x: Tensor) -> Tensor:
    """Euclidean norm over H, W of each channel by the mean of all channels' norms: (N, C, H, W) -> (N, C, 1, 1).

    In fp16 a sum of squares over a map of 64x64 leaves the range: there the values are taken relative to the channel's
    largest, and the mean stands for the sum, whose factor cancels.
    """
    if in_half_range(x):
        largest = x.abs().amax((2, 3), keepdim=True)
        ratio = x / (largest + (largest == 0).to(x.dtype))
        norm = largest * (ratio * ratio).mean((2, 3), keepdim=True).sqrt()
    else:
        norm = (x * x).sum((2, 3), keepdim=True).clamp_min(_TINY).sqrt()
    return norm / (norm.mean(1, keepdim=True) + EPS)


class ResponseNorm(nn.Module):
    """x * (gamma * response + 1) + beta, the layer of ConvNeXt V2; beta goes once the next layer has taken it.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta: nn.Parameter | None = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Reweight each channel by its relative response."""
        y = x * (self.gamma * relative_response(x) + 1)
        return y if self.beta is None else y + self.beta

    @torch.no_grad()
    def move_beta_(self, conv: nn.Conv2d) -> None:
        """Put beta into the bias of the 1x1 convolution that follows, in place."""
        if self.beta is None:
            return
        shift = conv.weight.double().flatten(1) @ self.beta.double().flatten()
        bias = shift if conv.bias is None else conv.bias.double() + shift
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype))
        self.beta = None
