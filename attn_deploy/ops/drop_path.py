"""Stochastic depth: in training, the branch of a residual block is left out for some samples."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops whole samples of a residual branch in training and scales the rest, so that the mean stays.

    Shape: (N, ...) -> the same; the identity at inference, and no node in an exported file.

    Args:
        rate: probability that a sample is dropped, at least 0 and below 1.

    Raises:
        ValueError: if rate is outside that range.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {rate!r}: 0 drops nothing.")
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Zero the dropped samples; at inference, the input itself."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0], *[1] * (x.dim() - 1))).bernoulli_(keep).div_(keep)
