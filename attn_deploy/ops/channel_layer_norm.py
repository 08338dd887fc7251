"""LayerNorm over the channels of a map without permuting it."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelLayerNorm2d(nn.LayerNorm):
    """Normalises each position of a map over its channels, as `nn.LayerNorm` does on (N, H, W, C).

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each position."""
        centred = input - input.mean(1, keepdim=True)
        scale = ((centred * centred).mean(1, keepdim=True) + self.eps).rsqrt()
        return centred * scale * self.weight.reshape(-1, 1, 1) + self.bias.reshape(-1, 1, 1)
