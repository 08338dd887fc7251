"""Locality-constrained grounding transformer of the Feature Pyramid Transformer: self-attention over a local window.

Paper: Feature Pyramid Transformer, ECCV 2020, arXiv:2007.09451.
Official: ZHANGDONG-NJUST/FPT, lib/modeling/LocalityconstrainedGT.py (LocalityconstrainedGT).
Export: the window is one depthwise convolution with a one-hot kernel (ops.unfold), whose bias is the relative position;
    its zero padding comes after the convolutions, which have no bias, so the order does not matter. Equal up to rounding.
Limits: stride and padding are not arguments: the official code needs stride 1 and padding kernel_size // 2, too. Its
    groups only reshape and change nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_odd, require_positive
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register


@register(
    "fpt_locality_gt",
    reference={"in_channels": 64, "out_channels": 64, "kernel_size": 3},
    parameters=12480,
)
class FPTLocalityGroundingTransformer(Fusible, nn.Module):
    """Weighs the places of each window, for every channel by itself, by a softmax of query times key plus position.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even: one half has vertical, one half horizontal relative positions.
        kernel_size: of the window.

    Raises:
        ValueError: if out_channels is odd or kernel_size is even.
    """

    official_keys = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_odd(kernel_size=kernel_size)
        if out_channels % 2:
            raise ValueError(
                f"out_channels must be even, got {out_channels}: one half has vertical, one half horizontal relative "
                f"positions; use {out_channels + 1}."
            )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.rel_h = nn.Parameter(torch.randn(out_channels // 2, 1, 1, kernel_size, 1))
        self.rel_w = nn.Parameter(torch.randn(out_channels // 2, 1, 1, 1, kernel_size))
        self.query = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.key = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.value = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.windows = Unfold(out_channels, kernel_size, padding=kernel_size // 2)
        self.key_windows: Unfold | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "FPTLocalityGroundingTransformer")
        if self.key_windows is None:
            key = self.windows(self.key(x), self._positions())
        else:
            key = self.key_windows(self.key(x))
        shape = (x.shape[0], self.out_channels, self.kernel_size**2, -1)
        weights = (self.query(x).flatten(2).unsqueeze(2) * key.reshape(shape)).softmax(2)
        mixed = (weights * self.windows(self.value(x)).reshape(shape)).sum(2)
        return mixed.reshape(x.shape[0], self.out_channels, x.shape[2], x.shape[3])

    def _positions(self) -> Tensor:
        """Relative position of each channel and place, in the order of the unfolded channels."""
        k = self.kernel_size
        rows, columns = self.rel_h.reshape(-1, k, 1).expand(-1, k, k), self.rel_w.reshape(-1, 1, k).expand(-1, k, k)
        return torch.cat([rows, columns], 0).reshape(-1)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Compute the bias of the key's windows once."""
        if self.key_windows is not None:
            return None
        self.key_windows = Unfold(self.out_channels, self.kernel_size, padding=self.kernel_size // 2).to(self.rel_h)
        self.key_windows.bias = self._positions().detach().clone()
        return "relative positions as a constant bias"
