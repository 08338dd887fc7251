"""Ultra-lightweight subspace attention module.

Paper: ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks, WACV 2020,
    arXiv:2006.15102.
Official: Nandan91/ULSAM, ulsam.py (ULSAM, SubSpace).
Export: all subspaces are computed at once, by a grouped convolution instead of a Python loop over chunks: every layer
    acts on each channel, or on each subspace's group, by itself. Equal up to rounding, in training too.
Deviations: older copies pool the input instead of the depthwise convolution's output, which leaves that branch dead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_positive
from attn_deploy.registry import register

_PLACES = {"conv_dws": 0, "bn_dws": 1, "conv_point": 4, "bn_point": 5}


@register("ulsam", aliases=("ultra_lightweight_subspace_attention",), parameters=332)
class ULSAM(nn.Module):
    """Adds to each subspace of channels the same map weighted by a softmax over positions, one for each subspace.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_splits: subspaces.

    Raises:
        ValueError: if channels is not a multiple of num_splits.
    """

    def __init__(self, channels: int, *, num_splits: int = 4) -> None:
        super().__init__()
        require_positive(channels=channels, num_splits=num_splits)
        require_divisible("channels", channels, "num_splits", num_splits)
        self.channels, self.num_splits = channels, num_splits
        self.attend = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=channels),
            nn.BatchNorm2d(channels, momentum=0.9),
            nn.ReLU(),
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(channels, num_splits, 1, groups=num_splits),
            nn.BatchNorm2d(num_splits, momentum=0.9),
            nn.ReLU(),
        )

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Concatenate the subspaces' tensors; a lone SubSpace's checkpoint is that of one split."""
        joined: dict[str, Tensor] = {}
        for layer, place in _PLACES.items():
            for kind in ("weight", "bias", "running_mean", "running_var"):
                names = [f"subspaces.{i}.{layer}.{kind}" for i in range(self.num_splits)]
                if f"{layer}.{kind}" in state:
                    names = [f"{layer}.{kind}"]
                parts = [state.pop(name) for name in names if name in state]
                if parts:
                    joined[f"attend.{place}.{kind}"] = torch.cat(parts)
        return joined | state

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ULSAM")
        attention = self.attend(x).flatten(2).softmax(2).unsqueeze(2)
        split = x.reshape(x.shape[0], self.num_splits, self.channels // self.num_splits, -1)
        return (split + split * attention).reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
