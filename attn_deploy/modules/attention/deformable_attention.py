"""Multi-scale deformable attention.

Paper: Deformable DETR: Deformable Transformers for End-to-End Object Detection, ICLR 2021, arXiv:2010.04159.
Official: fundamentalvision/Deformable-DETR, models/ops/modules/ms_deform_attn.py (MSDeformAttn) with
    models/ops/functions/ms_deform_attn_func.py (ms_deform_attn_core_pytorch).
Export: value maps are given one by one, so that their sizes are their own and no tensor of shapes is split in Python.
    Points are sampled in pixel coordinates by one Gather of rows for each level, with the attention in the same weights,
    which every opset has; sampling="grid_sample" uses that operator, of opset 16 on. Equal up to rounding.
Deviations: officially the maps are one flattened tensor with a tensor of their shapes, and padded positions are masked:
    multiply the maps by their mask before.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_divisible, require_positive
from attn_deploy.ops.bilinear_rows import bilinear_taps, pixel_rows
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

SAMPLING = ("gather", "grid_sample")
_SIZES = {"Q": 10, **{f"{axis}{i}": max(2, side >> i) for i in range(8) for axis, side in (("H", 17), ("W", 22))}}


@register(
    "deformable_attention",
    aliases=(
        "ms_deform_attn",
        "ms_deformable_attention",
        "multi_scale_deformable_attention",
        "deformable_attn",
        "deformable_detr",
    ),
    parameters=33280,
    inputs=(
        Input("query", ("N", "Q", "channels")),
        Input("reference", ("N", "Q", "num_levels", 2)),
        Input("value", ("N", "channels", "H{i}", "W{i}"), repeat="num_levels"),
    ),
    dynamic=("N", "Q", "H", "W"),
    sizes=_SIZES,
)
class MSDeformableAttention(nn.Module):
    """Lets each query attend to a few learned points around its reference on maps of several scales.

    Shape: queries (N, Q, C), reference points (N, Q, num_levels, 2) as x, y in 0..1 or boxes (N, Q, num_levels, 4) as
    centre x, y, width, height, and num_levels maps (N, C, H_l, W_l) -> (N, Q, C); dynamic N, Q, H_l, W_l.

    Args:
        channels: C.
        num_levels: number of value maps.
        num_heads: heads that C is cut into.
        num_points: points of each head on each map.
        sampling: "gather", for every opset, or "grid_sample".

    Raises:
        ValueError: if num_heads does not divide channels, sampling is unknown, or an input does not fit.
    """

    distance_weights = ("sampling_offsets.weight",)

    def __init__(
        self,
        channels: int = 256,
        *,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        sampling: str = "gather",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_levels=num_levels, num_heads=num_heads, num_points=num_points)
        require_divisible("channels", channels, "num_heads", num_heads)
        require_choice("sampling", sampling, SAMPLING)
        self.channels, self.num_levels, self.num_heads, self.num_points = channels, num_levels, num_heads, num_points
        self.sampling = sampling
        self.head_dim = channels // num_heads
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, 2 * points)
        self.attention_weights = nn.Linear(channels, points)
        self.value_proj = nn.Conv2d(channels, channels, 1)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official start: each head looks along a direction of its own, one step further with each point."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], 1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32).reshape(1, 1, -1, 1)
        grid = directions.reshape(self.num_heads, 1, 1, 2).expand(-1, self.num_levels, self.num_points, -1) * steps
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, *values: Tensor) -> Tensor:
        self._check(query, reference, values)
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        batch = query.shape[0]
        offsets = self.sampling_offsets(query).reshape(batch, -1, heads, levels, 2 * points).transpose(1, 2)
        attention = self.attention_weights(query).reshape(batch, -1, heads, levels * points).softmax(3)
        attention = attention.reshape(batch, -1, heads, levels, points).transpose(1, 2)
        mixed = None
        for level, value in enumerate(values):
            x, y = self._locations(reference, offsets, level, value)
            sample = self._by_grid_sample if self.sampling == "grid_sample" else self._by_gather
            part = sample(self.value_proj(value), x, y, attention[:, :, :, level])
            mixed = part if mixed is None else mixed + part
        return self.output_proj(mixed.transpose(1, 2).flatten(2))

    def _locations(self, reference: Tensor, offsets: Tensor, level: int, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where the points lie on one map, x and y in pixels: (N, heads, Q, points)."""
        if reference.dtype in (torch.float16, torch.bfloat16):
            reference, offsets = reference.float(), offsets.float()
        parts = offsets[:, :, :, level].reshape(offsets.shape[0], self.num_heads, -1, self.num_points, 2)
        anchor = [t.unsqueeze(1).unsqueeze(3) for t in reference[:, :, level].unbind(2)]  # x, y and of boxes also w, h
        located = []
        for axis, extent in ((0, value.shape[3]), (1, value.shape[2])):
            shift = parts[..., axis]
            if len(anchor) > 2:
                shift = shift * (anchor[axis + 2] * extent) * (0.5 / self.num_points)
            located.append(anchor[axis] * extent + shift - 0.5)
        return located[0], located[1]

    def _by_gather(self, value: Tensor, x: Tensor, y: Tensor, attention: Tensor) -> Tensor:
        """The weighted sum of one map's samples: (N, heads, Q, C / heads)."""
        height, width = value.shape[2], value.shape[3]
        rows = pixel_rows(value.reshape(-1, self.head_dim, height, width))
        index, weights = bilinear_taps(x, y, height, width)
        maps = torch.arange(value.shape[0] * self.num_heads, device=value.device) * (height * width)
        index = index + maps.reshape(-1, self.num_heads, 1, 1, 1)
        taps = 4 * self.num_points
        weights = (weights.to(value.dtype) * attention.unsqueeze(4)).flatten(3)
        samples = rows.index_select(0, index.flatten())
        samples = samples.reshape(value.shape[0], self.num_heads, -1, taps, self.head_dim)
        return torch.matmul(weights.unsqueeze(3), samples).squeeze(3)

    def _by_grid_sample(self, value: Tensor, x: Tensor, y: Tensor, attention: Tensor) -> Tensor:
        """As `_by_gather`, by the operator of that name."""
        height, width = value.shape[2], value.shape[3]
        grid = torch.stack([(x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1], 4).flatten(0, 1)
        maps = value.reshape(-1, self.head_dim, height, width)
        samples = F.grid_sample(maps, grid.to(value.dtype), "bilinear", "zeros", align_corners=False)
        weighted = (samples * attention.flatten(0, 1).unsqueeze(1)).sum(3)  # (N * heads, C / heads, Q)
        return weighted.reshape(value.shape[0], self.num_heads, self.head_dim, -1).transpose(2, 3)

    def _check(self, query: Tensor, reference: Tensor, values: tuple[Tensor, ...]) -> None:
        owner = "MSDeformableAttention"
        if len(values) != self.num_levels:
            raise ValueError(
                f"{owner}: expected {self.num_levels} value maps, got {len(values)}: set num_levels to their number."
            )
        for value in values:
            check_channels(value, self.channels, owner)
        if not sizes_are_known():
            return
        if query.dim() != 3 or query.shape[2] != self.channels:
            raise ValueError(
                f"{owner}: expected queries of shape (N, Q, {self.channels}), got {tuple(query.shape)}: construct it "
                "with the channel count of its queries."
            )
        leading = (*query.shape[:2], self.num_levels)
        if reference.dim() != 4 or reference.shape[:3] != leading or reference.shape[3] not in (2, 4):
            raise ValueError(
                f"{owner}: expected reference points of shape {(*leading, 2)} or boxes of {(*leading, 4)}, got "
                f"{tuple(reference.shape)}: give one for each query on each map."
            )
        wrong = [tuple(v.shape) for v in values if v.shape[0] != query.shape[0]]
        if wrong:
            raise ValueError(
                f"{owner}: the queries are of a batch of {query.shape[0]}, a value map is {wrong[0]}: give both for the "
                "same samples."
            )
