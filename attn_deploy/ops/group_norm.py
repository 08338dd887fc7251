"""GroupNorm spelled out for maps: the mean is subtracted before squaring, and the graph holds no operator of opset 18."""

from __future__ import annotations

from torch import Tensor, nn


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each group of channels over itself, H and W (biased variance): (N, C, H, W) -> (N, C, H, W)."""
    channels = weight.numel()
    grouped = x
    axes: tuple[int, ...] = (1, 2, 3)
    if groups > 1:
        grouped = x.reshape(x.shape[0], groups, channels // groups, x.shape[2], x.shape[3])
        axes = (2, 3, 4)
    centred = grouped - grouped.mean(axes, keepdim=True)
    scale = ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    normal = centred * scale
    if groups > 1:
        normal = normal.reshape(x.shape[0], channels, x.shape[2], x.shape[3])
    return normal * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


class GroupNorm2d(nn.GroupNorm):
    """`nn.GroupNorm` of maps in that form, with the same parameters.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each sample."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
