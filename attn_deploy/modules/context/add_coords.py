"""AddCoords: the coordinates of the positions as further channels.

Paper: An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution, NeurIPS 2018, arXiv:1807.03247.
Official: uber-research/CoordConv, CoordConv.py (AddCoords), in TensorFlow.
Export: ranges divided by their length, never linspace, which torch.export bakes. Equal up to rounding.
Deviations: the official code divides the column index by H - 1 and the row index by W - 1, which is right for square maps
    only; here each coordinate spans -1 to 1 along its own axis, as in the paper.
Limits: H and W of at least 2; officially 1 is 0 / 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, coordinate_maps, require_positive
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register


@register("add_coords", aliases=("add_coordinates",), parameters=0, minimum={"H": 2, "W": 2})
class AddCoords(nn.Module):
    """Appends the column and the row of each position, from -1 to 1, to the channels.

    Shape: (N, C, H, W) -> (N, C + 2, H, W), or C + 3 with the radius; dynamic N, H, W.

    Args:
        channels: C.
        with_r: whether the distance from the centre is appended too.

    Raises:
        ValueError: if channels is below 1, or H or W is below 2.
    """

    def __init__(self, channels: int, *, with_r: bool = False) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels, self.with_r = channels, with_r

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AddCoords")
        require_least_size(x, 2, "AddCoords", "a coordinate needs two positions")
        maps = coordinate_maps(x, with_radius=self.with_r)
        return torch.cat((x, maps.expand(x.shape[0], -1, -1, -1)), 1)
