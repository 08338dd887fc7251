"""Interaction-and-aggregation block: spatial, then channel interaction by plain Gram matrices.

Paper: Interaction-and-Aggregation Network for Person Re-identification, CVPR 2019, arXiv:1907.08435.
Official: blue-blue272/ImgReID-IAnet, models/IA.py (IABlock2D).
Export: the distance weights are a product of one softmax along each axis, made from the symbolic lengths; officially a
    numpy array binds the block to one map size. Both Gram matrices stay in the range of fp16 (ops.bounded). Equal up to rounding.
Limits: holds three (H * W) x (H * W) matrices. The second softmax, over a product of two probabilities, is nearly
    uniform on real maps; that is the official definition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_positive
from attn_deploy.ops.bounded import bounded_product_softmax, gram_softmax
from attn_deploy.registry import register


@register("ia_block", aliases=("interaction_aggregation",), parameters=256)
class IABlock2d(nn.Module):
    """Mixes positions by similarity and nearness, then channels by similarity, each with a residual BatchNorm.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        alpha_x: standard deviation of nearness along W, in positions; 10 for 512 channels officially, 5 for 1024.
        alpha_y: the same along H; 20 and 10 officially.

    Raises:
        ValueError: if alpha_x or alpha_y is not positive.
    """

    official_keys = {"W1": "spatial_norm", "W2": "channel_norm"}

    def __init__(self, channels: int, *, alpha_x: float = 10.0, alpha_y: float = 20.0) -> None:
        super().__init__()
        require_positive(channels=channels)
        for name, alpha in (("alpha_x", alpha_x), ("alpha_y", alpha_y)):
            if alpha <= 0:
                raise ValueError(f"{name} must be positive, got {alpha}: it is a standard deviation in positions.")
        self.channels, self.alpha_x, self.alpha_y = channels, alpha_x, alpha_y
        self.spatial_norm = nn.BatchNorm2d(channels)
        self.channel_norm = nn.BatchNorm2d(channels)
        for norm in (self.spatial_norm, self.channel_norm):
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "IABlock2d")
        positions = x.flatten(2)
        scale = self.channels**0.5
        similar = bounded_product_softmax((positions / scale).transpose(1, 2), positions, scale)
        weights = (similar * self._nearness(x)).softmax(2)
        mixed = positions.matmul(weights.transpose(1, 2))
        x = x + self.spatial_norm(mixed.reshape(x.shape[0], self.channels, x.shape[2], x.shape[3]))
        attention = gram_softmax(x)
        mixed = attention.matmul(x.flatten(2)).reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
        return x + self.channel_norm(mixed)

    def _nearness(self, x: Tensor) -> Tensor:
        """Softmax over all positions of the negative squared distance: (H * W, H * W)."""
        down, across = _near(x.shape[2], self.alpha_y, x), _near(x.shape[3], self.alpha_x, x)
        return (down.unsqueeze(1).unsqueeze(3) * across.unsqueeze(0).unsqueeze(2)).flatten(2).flatten(0, 1)


def _near(length: int, alpha: float, like: Tensor) -> Tensor:
    i = torch.arange(length, device=like.device)
    distance = (i.unsqueeze(1) - i.unsqueeze(0)).to(like.dtype) / (alpha * 2**0.5)
    return (-distance * distance).softmax(1)
