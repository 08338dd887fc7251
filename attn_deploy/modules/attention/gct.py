"""Gated Channel Transformation.

Paper: Gated Channel Transformation for Visual Recognition, CVPR 2020, arXiv:1909.11519.
Official: z-x-yang/GCT, PyTorch/GCT.py (GCT).
Export: sums over H * W, which leave the range of fp16, are means, and epsilon is divided by H * W in both places; the
    ratio of a channel's norm to that of all is the same. In fp16, where that quotient is 0, a floor keeps a map of zeros
    from dividing by 0. Equal up to rounding.
Deviations: the Gaussian Context Transformer of CVPR 2021, also called GCT, is another module. An unknown mode is refused
    with ValueError (officially a NameError).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_positive
from attn_deploy.ops.bounded import in_half_range
from attn_deploy.registry import register

_FLOOR = 1e-7  # the least that fp16 holds


@register(
    "gct",
    aliases=("gated_channel_transform", "gated_channel_transformation"),
    parameters=192,
)
class GatedChannelTransformation(nn.Module):
    """Scales each channel by a gate of its norm over positions, relative to the norms of all channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        epsilon: added under both roots ("l2"), or to the mean of all channels ("l1").
        mode: the norm, "l2" or "l1".
        after_relu: whether the input is never negative, so that "l1" can leave out the absolute value.

    Raises:
        ValueError: if channels < 1, mode is another, or epsilon is not above 0.
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5, mode: str = "l2", after_relu: bool = False) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("mode", mode, ("l2", "l1"))
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}: it keeps a map of zeros from dividing by 0.")
        self.channels, self.epsilon, self.mode, self.after_relu = channels, epsilon, mode, after_relu
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GatedChannelTransformation")
        epsilon = self.epsilon / (x.shape[2] * x.shape[3])
        if self.mode == "l2":
            embedding = ((x * x).mean((2, 3), keepdim=True) + epsilon).sqrt() * self.alpha
            norm = ((embedding * embedding).mean(1, keepdim=True) + epsilon).sqrt()
        else:
            values = x if self.after_relu else x.abs()
            embedding = values.mean((2, 3), keepdim=True) * self.alpha
            norm = embedding.abs().mean(1, keepdim=True) + epsilon
        if in_half_range(x):
            norm = norm.clamp_min(_FLOOR)
        gate = (embedding / norm * self.gamma + self.beta).tanh()
        return x * (gate + 1.0)
