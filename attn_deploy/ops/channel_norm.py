"""LayerNorm over the channels of pooled vectors, as a module whose tensors carry the names of nn.LayerNorm."""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops.norm import channel_layer_norm


class ChannelLayerNorm(nn.LayerNorm):
    """Normalises pooled vectors over their channels, as `nn.LayerNorm([C, 1, 1])` does, with 1-D tensors.

    Shape: (N, C, 1, 1) -> (N, C, 1, 1); dynamic N.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each vector of the batch."""
        return channel_layer_norm(x, self.weight, self.bias, self.eps)
