"""Coordinate Attention.

Paper: Coordinate Attention for Efficient Mobile Network Design, CVPR 2021, arXiv:2103.02907.
Official: houqb/CoordAttention, coordatt.py (CoordAtt).
Export: the strips are means. The usual adaptive pools to (None, 1) and (1, None) are exported with the traced size baked
    in: wrong numbers at every other size, without a word. The shared 1x1 convolution runs on rows and columns apart, so
    no concatenation, transposition or split along H + W is left; in training it still sees both at once, as the
    statistics of its BatchNorm ask. Equal up to rounding.
Deviations: changzy00/pytorch-attention uses ReLU and leaves the sigmoids out, which is another function; timm's CoordAttn
    rounds the hidden width otherwise and offers a shortcut. The copies in YOLO forks and mmdet equal the official code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_positive, strip_means
from attn_deploy.registry import register

LEAST_WIDTH = 8


def _hard_swish(x: Tensor) -> Tensor:
    """As a product: TensorRT does not take the operator HardSwish in bfloat16."""
    return x * F.hardsigmoid(x)


@register(
    "coord_attention",
    aliases=("ca", "coordatt", "coordinate_attention"),
    reference={"in_channels": 64},
    parameters=1688,
)
class CoordAttention(nn.Module):
    """Gates each position by its row's and its column's averages, so that the gate knows where along both axes it is.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: must equal in_channels, since the gate multiplies the input; None is in_channels.
        reduction: factor by which the hidden layer is narrower than C; it has at least 8 channels.

    Raises:
        ValueError: if reduction < 1, or out_channels differs from in_channels.
    """

    official_keys = {"conv1": "squeeze.0", "bn1": "squeeze.1"}

    def __init__(self, in_channels: int, out_channels: int | None = None, *, reduction: int = 32) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        require_positive(in_channels=in_channels, out_channels=out_channels, reduction=reduction)
        if out_channels != in_channels:
            raise ValueError(
                f"out_channels must equal in_channels, got in_channels={in_channels} and out_channels={out_channels}: "
                f"the gate multiplies the input; leave out_channels out."
            )
        width = max(LEAST_WIDTH, in_channels // reduction)
        self.in_channels = in_channels
        self.squeeze = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width))
        self.conv_h = nn.Conv2d(width, in_channels, 1)
        self.conv_w = nn.Conv2d(width, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "CoordAttention")
        rows, columns = self._squeezed(*strip_means(x))
        return x * self.conv_w(_hard_swish(columns)).sigmoid() * self.conv_h(_hard_swish(rows)).sigmoid()

    def _squeezed(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.squeeze(rows), self.squeeze(columns)
        height, width = rows.shape[2], columns.shape[3]  # one batch of statistics over both
        both = self.squeeze(torch.cat([rows, columns.transpose(2, 3)], 2))
        rows, columns = both.split([height, width], 2)
        return rows, columns.transpose(2, 3)
