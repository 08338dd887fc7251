"""Connected global context block of DCANet: GC whose context also holds the previous block's term.

Paper: DCANet: Learning Connected Attentions for Convolutional Neural Networks, ICME 2021, arXiv:2007.05099.
Official: 13952522076/DCANet, models/resnet/resnet_gc_dca.py (RContextBlock2d).
Export: terms pass from block to block as plain tensors, and whether a block has a predecessor is settled when it is
    made. Equal up to rounding.
Deviations: the official first block owns the layers for a predecessor that it never has; here they are left out.
Limits: attention pooling and the additive term only (pool='att', fusions=['channel_add']), as the paper's networks use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_positive, require_reduced
from attn_deploy.ops.channel_norm import ChannelLayerNorm
from attn_deploy.ops.predecessor import require_predecessor
from attn_deploy.registry import Input, register

_OUTPUTS = ("y", "term")


def _bottleneck(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1), ChannelLayerNorm(width), nn.ReLU(), nn.Conv2d(width, out_channels, 1)
    )


@register(
    "dca_gc",
    reference={"channels": 64, "previous_channels": 64},
    parameters=654,
    inputs=(Input("x", ("N", "channels", "H", "W")), Input("previous", ("N", "previous_channels", 1, 1))),
    outputs=_OUTPUTS,
)
@register(
    "dca_gc_first",
    parameters=653,
    outputs=_OUTPUTS,
    summary="Connected global context block in the first block of a network, which has no term before it.",
)
class DCAContextBlock2d(Fusible, nn.Module):
    """Adds to all positions one term made of the attention-pooled context and the previous block's term.

    Shape: (N, C, H, W), (N, previous_channels, 1, 1) -> (N, C, H, W), (N, C, 1, 1); without the second input in a
    first block. Dynamic N, H, W.

    Args:
        channels: C.
        previous_channels: channels of the previous block's term; 0 for the first block, which has none.
        reduction: factor by which the hidden layers are narrower than C.

    Raises:
        ValueError: if channels // reduction < 1, or the previous term is missing or has other channels.
    """

    official_keys = {"conv_mask": "mask", "channel_add_conv": "transform", "att_fc": "adapt"}

    def __init__(self, channels: int, *, previous_channels: int = 0, reduction: int = 16) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels, self.previous_channels = channels, previous_channels
        self.mask = nn.Conv2d(channels, 1, 1)
        self.transform = _bottleneck(channels, width, channels)
        nn.init.zeros_(self.transform[3].weight)
        nn.init.zeros_(self.transform[3].bias)
        if previous_channels:
            require_positive(previous_channels=previous_channels)
            self.weight = nn.Parameter(torch.zeros(1))
            same = previous_channels == channels
            self.adapt = nn.Identity() if same else _bottleneck(previous_channels, width, channels)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a first block owns but never uses."""
        if self.previous_channels:
            return state
        return {k: v for k, v in state.items() if k != "weight" and not k.startswith("adapt.")}

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_channels(x, self.channels, "DCAContextBlock2d")
        require_predecessor(previous, self.previous_channels, "DCAContextBlock2d", "term")
        attention = self.mask(x).flatten(1).softmax(1).unsqueeze(2)  # a column: a transposed row multiplies slower
        context = x.flatten(2).matmul(attention).unsqueeze(3)
        if previous is not None:
            check_channels(previous, self.previous_channels, "DCAContextBlock2d, previous term")
            context = context + self.weight * self.adapt(previous)
        term = self.transform(context)
        return x + term, term

    def fuse_(self) -> str | None:
        """Drop the mask's bias, which the softmax cancels."""
        if self.mask.bias is None:
            return None
        self.mask.bias = None
        return "mask bias cancelled by the softmax"
