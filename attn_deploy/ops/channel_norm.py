"""LayerNorm over the channels of a map, as a module whose tensors carry the names of nn.LayerNorm."""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops.norm import channel_layer_norm


class ChannelLayerNorm(nn.LayerNorm):
    """Normalises each position over its channels; `nn.LayerNorm([C, 1, 1])` on pooled vectors is this.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with primitive operators, which exist at every opset."""
        return channel_layer_norm(x, self.weight, self.bias, self.eps)
