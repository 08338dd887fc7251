"""Connected Squeeze-and-Excitation of DCANet: a gate that also reads the previous block's attention.

Paper: DCANet: Learning Connected Attentions for Convolutional Neural Networks, ICME 2021, arXiv:2007.05099.
Official: 13952522076/DCANet, models/resnet/resnet_se_dca.py (CSELayer).
Export: attention passes from block to block as a plain tensor instead of in a dictionary, and whether a block has a
    predecessor is settled when it is made. The 2-to-1 convolution over the stacked vectors is a weighted sum. Equal
    up to rounding.
Deviations: the official first block owns the layers for a predecessor that it never has; here they are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, global_avg_pool, require_positive, require_reduced
from attn_deploy.ops.channel_norm import ChannelLayerNorm
from attn_deploy.ops.predecessor import require_predecessor
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

_OUTPUTS = ("y", "attention")


@register(
    "dca_se",
    aliases=("connected_se",),
    reference={"channels": 64, "previous_channels": 64},
    parameters=711,
    inputs=(Input("x", ("N", "channels", "H", "W")), Input("previous", ("N", "previous_channels"))),
    outputs=_OUTPUTS,
)
@register(
    "dca_se_first",
    parameters=580,
    outputs=_OUTPUTS,
    summary="Connected Squeeze-and-Excitation in the first block of a network, which has no attention before it.",
)
class DCASELayer(Fusible, nn.Module):
    """Gates channels by their averages joined with the previous block's attention, and hands its own attention on.

    Shape: (N, C, H, W), (N, previous_channels) -> (N, C, H, W), (N, C); without the second input in a first block.
    Dynamic N, H, W.

    Args:
        channels: C.
        previous_channels: width of the previous block's attention; 0 for the first block, which has none.
        reduction: factor by which the gate's hidden layer is narrower than C.

    Raises:
        ValueError: if channels // reduction < 1, or the previous attention is missing or has another width.
    """

    official_keys = {
        "fc.0": "reduce",
        "fc.2": "expand",
        "att_fc.0": "adapt",
        "att_fc.1": "adapt_norm",
        "conv.0.weight": "mix",
        "conv.0.bias": "mix_bias",
        "conv.1": "mix_norm",
    }

    def __init__(self, channels: int, *, previous_channels: int = 0, reduction: int = 16) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels, self.previous_channels = channels, previous_channels
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.mix_bias: nn.Parameter | None = None
        if previous_channels:
            require_positive(previous_channels=previous_channels)
            if previous_channels != channels:
                self.adapt = nn.Conv2d(previous_channels, channels, 1)
                self.adapt_norm = ChannelLayerNorm(channels)
            self.mix = nn.Parameter(torch.empty(2).uniform_(-(0.5**0.5), 0.5**0.5))
            self.mix_bias = nn.Parameter(torch.empty(1).uniform_(-(0.5**0.5), 0.5**0.5))
            self.mix_norm = ChannelLayerNorm(channels)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a first block owns but never uses."""
        if self.previous_channels:
            return state
        return {k: v for k, v in state.items() if not k.startswith(("adapt", "mix"))}

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_channels(x, self.channels, "DCASELayer")
        self._check_previous(previous)
        pooled = global_avg_pool(x)
        gate = self.expand(self.reduce(self._joined(pooled, previous)).relu()).sigmoid()
        return x * gate, (pooled * gate).flatten(1)

    def _joined(self, pooled: Tensor, previous: Tensor | None) -> Tensor:
        if previous is None:
            return pooled
        previous = previous.unsqueeze(2).unsqueeze(3)
        if self.previous_channels != self.channels:
            previous = self.adapt_norm(self.adapt(previous)).relu()
        joined = self.mix[0] * pooled + self.mix[1] * previous
        return self.mix_norm(joined if self.mix_bias is None else joined + self.mix_bias).relu()

    def _check_previous(self, previous: Tensor | None) -> None:
        require_predecessor(previous, self.previous_channels, "DCASELayer", "attention")
        if previous is None or not sizes_are_known():
            return
        if previous.dim() != 2 or previous.shape[1] != self.previous_channels:
            raise ValueError(
                f"DCASELayer: expected the previous attention as (N, {self.previous_channels}), got "
                f"{tuple(previous.shape)}: set previous_channels to its width."
            )

    def fuse_(self) -> str | None:
        """Drop the bias of the joining sum: the normalisation over channels takes the mean off again."""
        if self.mix_bias is None:
            return None
        self.mix_bias = None
        return "bias of the sum cancelled by the LayerNorm"
