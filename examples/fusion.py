"""A network of several inputs: an image, a mask of what counts in it, and how strongly the mask tells."""

from __future__ import annotations

from torch import Tensor, nn


class Fusion(nn.Module):
    """An image (N, 3, H, W), a mask (N, H, W) and strengths (N,) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor, mask: Tensor, strength: Tensor) -> Tensor:
        """Image (N, 3, H, W), mask (N, H, W) of bool, strength (N,) -> logits (N, 10)."""
        weight = 1 + strength[:, None, None, None] * (mask.unsqueeze(1).to(image.dtype) - 1)
        return self.head(self.body(image * weight).mean((2, 3)))
