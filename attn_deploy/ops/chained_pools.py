"""Max pools of growing windows on one map, each made from the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class ChainedMaxPools(nn.Module):
    """The maxima over windows of several sizes, stride 1, the size kept.

    Maxima of maxima are maxima: a window of 9 is a window of 5 over windows of 5, at the borders too. So each pool works
    on the one before it with the window that is missing, which is a third of the comparisons for 5, 9 and 13.

    Shape: (N, C, H, W) -> one (N, C, H, W) for each window; dynamic N, H, W.

    Args:
        kernel_sizes: odd and growing.
    """

    def __init__(self, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        sizes = [kernel_sizes[0], *(b - a + 1 for a, b in pairwise(kernel_sizes))]
        self.pools = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pooled maps, in order of the windows."""
        maps = []
        for pool in self.pools:
            x = pool(x)
            maps.append(x)
        return maps


def require_growing(name: str, sizes: Sequence[int]) -> None:
    """Window sizes that `ChainedMaxPools` takes: at least one, odd, none smaller than the one before it.

    Raises:
        ValueError: naming the argument.
    """
    odd = all(isinstance(k, int) and not isinstance(k, bool) and k > 0 and k % 2 for k in sizes)
    if not sizes or not odd or any(a > b for a, b in pairwise(sizes)):
        raise ValueError(f"{name} must hold odd window sizes that grow, got {tuple(sizes)}: use (5, 9, 13).")
