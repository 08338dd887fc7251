"""CoordConv: a convolution that also sees where it is.

Paper: An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution, NeurIPS 2018, arXiv:1807.03247.
Official: uber-research/CoordConv, CoordConv.py (AddCoords, CoordConv), in TensorFlow.
Export: the coordinates are ranges divided by their length, never linspace, which torch.export bakes. The convolution is
    linear: it is applied to the map and to one map of coordinates for the whole batch, and the two are added, so that
    nothing is repeated over the batch or joined. At fixed sizes the second is a constant. Equal up to rounding.
Deviations: the official code divides the column index by H - 1 and the row index by W - 1, which is right for square maps
    only; here each coordinate spans -1 to 1 along its own axis, as in the paper. mkocabas/CoordConv-pytorch serves square
    maps only and measures the radius from (0.5, 0.5).
Limits: H and W of at least 2; officially 1 is 0 / 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, coordinate_maps, require_not_negative, require_positive
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register


@register(
    "coordconv",
    aliases=("coordconv2d", "coord_conv"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=38080,
    minimum={"H": 2, "W": 2},
)
class CoordConv2d(nn.Module):
    """Convolves a map together with the coordinates of its positions.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W') with the H' and W' of nn.Conv2d; dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the convolution.
        stride: step of the window.
        padding: zeros on every side; None is kernel_size // 2.
        with_r: whether the distance from the centre is a third coordinate.
        bias: whether the convolution has a bias.

    Raises:
        ValueError: if a number is below its least, or H or W is below 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        with_r: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        padding = kernel_size // 2 if padding is None else padding
        require_not_negative(padding=padding)
        self.in_channels, self.with_r = in_channels, with_r
        self.conv = nn.Conv2d(in_channels + 2 + with_r, out_channels, kernel_size, stride, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "CoordConv2d")
        require_least_size(x, 2, "CoordConv2d", "a coordinate needs two positions; use a plain convolution")
        weight, stride, padding = self.conv.weight, self.conv.stride, self.conv.padding
        y = F.conv2d(x, weight[:, : self.in_channels], self.conv.bias, stride, padding)
        maps = coordinate_maps(x, with_radius=self.with_r)
        return y + F.conv2d(maps, weight[:, self.in_channels :], None, stride, padding)
