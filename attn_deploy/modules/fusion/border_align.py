"""BorderAlign and the branch of BorderDet around it.

Paper: BorderDet: Border Feature for Dense Object Detection, ECCV 2020, arXiv:2007.11056.
Official: Megvii-BaseDetection/cvpods, cvpods/layers/csrc/border_align/border_align_kernel.cu, and
    Megvii-BaseDetection/BorderDet, playground/.../borderdet.py (BorderBranch).
Export: the CUDA kernel is replaced by bilinear sampling from Floor and Gather, or, with sampling="grid_sample" and from
    opset 16, by GridSample. Equal up to rounding. Gather is the default at every opset, being two to three times as fast
    in ONNX Runtime on a CPU.
Deviations: boxes are clamped to the map, as BorderDet's head does beforehand. Outside of it the kernel of cvpods
    extrapolates, and that of mmcv gives 0.
Limits: sampling="grid_sample" needs opset 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    check_channels,
    instance_norm,
    is_traced,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import Input, register

SAMPLING = ("gather", "grid_sample")


@register(
    "border_align",
    aliases=("border_alignment_module", "bam_border"),
    parameters=0,
    inputs=(Input("x", ("N", "channels", "H", "W")), Input("boxes", ("N", "K", 4))),
    dynamic=("N", "H", "W", "K"),
    sizes={"K": 12},
)
class BorderAlign(nn.Module):
    """Takes, for each border of each box, the maximum of the features along it.

    Shape: (N, C, H, W) with a quarter of the channels for the top, left, bottom and right border, and boxes (N, K, 4) as
    x1, y1, x2, y2 in pixels of the map -> (N, C / 4, K, 4), borders in that order; dynamic N, H, W, K.

    Args:
        channels: C.
        pool_size: steps along each border; one point more is sampled.
        sampling: "gather", for every opset, or "grid_sample".

    Raises:
        ValueError: if channels is not a multiple of 4, pool_size < 1, sampling is unknown, or boxes have another shape.
    """

    def __init__(self, channels: int, *, pool_size: int = 10, sampling: str = "gather") -> None:
        super().__init__()
        require_positive(channels=channels, pool_size=pool_size)
        require_divisible("channels", channels, "the number of borders", 4)
        require_choice("sampling", sampling, SAMPLING)
        self.channels = channels
        self.pool_size = pool_size
        self.sampling = sampling

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        return self.borders(x, boxes).permute(0, 2, 3, 1)

    def borders(self, x: Tensor, boxes: Tensor) -> Tensor:
        """The result with the border before the channel: (N, 4, C / 4, K)."""
        check_channels(x, self.channels, "BorderAlign")
        if boxes.dim() != 3 or (not is_traced() and (boxes.shape[2] != 4 or boxes.shape[0] != x.shape[0])):
            raise ValueError(
                f"BorderAlign: expected boxes of shape ({x.shape[0]}, K, 4), got {tuple(boxes.shape)}: give x1, y1, x2, y2 "
                "for each box of each image."
            )
        limits = boxes.new_ones(2) * (x.shape[3] - 1), boxes.new_ones(2) * (x.shape[2] - 1)
        columns, rows = _border_points(boxes, limits, self.pool_size)
        maps = x.reshape(-1, self.channels // 4, x.shape[2], x.shape[3])
        if self.sampling == "grid_sample":
            values = _by_grid_sample(maps, columns, rows, limits)
        else:
            values = _by_gather(maps, columns, rows)
        return values.reshape(-1, 4, self.channels // 4, boxes.shape[1])


@register(
    "border_branch",
    reference={"channels": 64, "border_channels": 32},
    parameters=20704,
    inputs=(Input("x", ("N", "channels", "H", "W")), Input("boxes", ("N", "H", "W", 4))),
)
class BorderBranch(nn.Module):
    """Adds the features of the borders of the box predicted at each position to the features of the position.

    Shape: (N, C, H, W) and boxes (N, H, W, 4), or (N, H * W, 4) by rows, as x1, y1, x2, y2 in pixels of the map ->
    (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        border_channels: channels kept of each border and of the position.
        pool_size: steps along each border.
        sampling: as in BorderAlign.

    Raises:
        ValueError: if a count is below 1, sampling is unknown, or there is not one box for each position.
    """

    official_keys = {
        "cur_point_conv.0": "point",
        "ltrb_conv.0": "border",
        "border_conv.0": "project",
    }

    def __init__(
        self, channels: int, *, border_channels: int = 128, pool_size: int = 10, sampling: str = "gather"
    ) -> None:
        super().__init__()
        require_positive(channels=channels, border_channels=border_channels)
        self.channels = channels
        self.border_channels = border_channels
        self.point = nn.Conv2d(channels, border_channels, 1)
        self.border = nn.Conv2d(channels, 4 * border_channels, 1)
        self.align = BorderAlign(4 * border_channels, pool_size=pool_size, sampling=sampling)
        self.project = nn.Conv2d(5 * border_channels, channels, 1)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        check_channels(x, self.channels, "BorderBranch")
        if boxes.dim() == 4:
            boxes = boxes.flatten(1, 2)
        height, width = x.shape[2], x.shape[3]
        if not is_traced() and boxes.shape[1] != height * width:
            raise ValueError(
                f"BorderBranch: expected a box for each of the {height * width} positions, got boxes of shape "
                f"{tuple(boxes.shape)}: give (N, {height}, {width}, 4)."
            )
        point = instance_norm(self.point(x)).relu()
        border = instance_norm(self.border(x)).relu()
        aligned = self.align.borders(border, boxes).reshape(-1, 4 * self.border_channels, height, width)
        return self.project(torch.cat([aligned, point], 1)).relu()


def _border_points(boxes: Tensor, limits: tuple[Tensor, Tensor], pool_size: int) -> tuple[Tensor, Tensor]:
    """Columns and rows of the points along each border, in the order of the kernel: both (N * 4, K, pool_size + 1)."""
    columns = torch.minimum(boxes[:, :, 0::2].clamp(min=0), limits[0])
    rows = torch.minimum(boxes[:, :, 1::2].clamp(min=0), limits[1])
    left, right = columns[:, :, :1], columns[:, :, 1:]
    top, bottom = rows[:, :, :1], rows[:, :, 1:]
    step = torch.cat([(right - left) / pool_size, (bottom - top) / pool_size], 2)
    begin, end = torch.cat([left, top], 2), torch.cat([right, bottom], 2)
    forward, backward = [begin], [end]
    for _ in range(pool_size):  # as the kernel: adding up rounds differently from begin + i * step
        forward.append(forward[-1] + step)
        backward.append(backward[-1] - step)
    there, back = torch.stack(forward, 3), torch.stack(backward, 3)
    still = torch.zeros_like(there[:, :, 0])
    x = torch.stack([there[:, :, 0], left + still, back[:, :, 0], right + still], 1)
    y = torch.stack([top + still, there[:, :, 1], bottom + still, back[:, :, 1]], 1)
    return x.flatten(0, 1).clamp(min=0), y.flatten(0, 1).clamp(min=0)  # adding up may end just below 0


def _by_gather(maps: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """The maximum over the points of each box, sampled by hand: (M, c, H, W), (M, K, P) twice -> (M, c, K)."""
    height, width = maps.shape[2], maps.shape[3]
    pixels = maps.flatten(2).transpose(1, 2).flatten(0, 1)
    first = (torch.arange(maps.shape[0], device=maps.device) * (height * width)).reshape(-1, 1, 1)
    x0, y0 = columns.floor(), rows.floor()
    right, low = (columns - x0).unsqueeze(3), (rows - y0).unsqueeze(3)
    x0, y0 = x0.long(), y0.long()
    one = torch.ones_like(x0)
    x1, y1 = torch.minimum(x0 + 1, one * (width - 1)), torch.minimum(y0 + 1, one * (height - 1))

    def pick(x: Tensor, y: Tensor) -> Tensor:
        index = (first + y * width + x).flatten()
        return pixels.index_select(0, index).reshape(-1, columns.shape[1], columns.shape[2], maps.shape[1])

    upper = pick(x0, y0) * (1 - right) + pick(x1, y0) * right
    lower = pick(x0, y1) * (1 - right) + pick(x1, y1) * right
    return (upper * (1 - low) + lower * low).amax(2).transpose(1, 2)


def _by_grid_sample(maps: Tensor, columns: Tensor, rows: Tensor, limits: tuple[Tensor, Tensor]) -> Tensor:
    """As `_by_gather`, by the operator of that name."""
    scale = [2 / limit[:1].clamp(min=1) for limit in limits]  # a map of one row has no extent to scale by
    grid = torch.stack([columns * scale[0] - 1, rows * scale[1] - 1], 3)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True).amax(3)
