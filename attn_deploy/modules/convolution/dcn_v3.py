"""DCNv3: deformable sampling with softmax weights over the taps, in groups, as InternImage uses it.

Paper: InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions, CVPR 2023,
    arXiv:2211.05778.
Official: OpenGVLab/InternImage, classification/ops_dcnv3/modules/dcnv3.py (DCNv3_pytorch) and functions/dcnv3_func.py.
Export: the official sampling in [-1, 1] exports as a file that is silently wrong at other sizes, or bound to one size. Here
    positions stay in pixels, the four neighbours of each sample are gathered at any opset, and the mask is part of their
    weights. Equal up to rounding.
Deviations: maps are (N, C, H, W), as everywhere here; the official module takes (N, H, W, C). There is no stride argument:
    the official depthwise convolution has stride 1 and the module fails with another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    activation,
    bilinear_sums,
    check_channels,
    coordinates_like,
    require_activation,
    require_choice,
    require_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register("dcn_v3", aliases=("internimage_dcn", "dcnv3_pytorch"), parameters=16108)
class DCNv3(Fusible, nn.Module):
    """Sums projected values sampled at learned offsets around each position, weighed by a softmax over the taps.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: k; there are k * k taps.
        dw_kernel_size: of the depthwise convolution that offsets and weights are predicted from; None is kernel_size.
        pad: dilation * (kernel_size - 1) // 2, which keeps the size.
        dilation: distance of the taps.
        group: groups of channels with offsets and weights of their own.
        offset_scale: factor of the offsets, and of the grid of taps.
        act: name of the activation behind the depthwise convolution.
        norm: "layer" (over the channels) or "batch", before that activation.
        center_feature_scale: whether a learned gate mixes in the value at the position itself.
        remove_center: whether the tap in the middle is left out.

    Raises:
        ValueError: if group does not divide channels, kernel_size is even with remove_center, dw_kernel_size is even,
            pad changes the size of the map, or act or norm is unknown.
    """

    official_keys = {
        "dw_conv.0": "depthwise.0",
        "dw_conv.1.0": "depthwise.1",
        "dw_conv.1.1": "norm",
        "center_feature_scale_proj_weight": "center_scale.weight",
        "center_feature_scale_proj_bias": "center_scale.bias",
    }

    grid: Tensor

    distance_weights = ("offset.weight",)

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act: str = "gelu",
        norm: str = "layer",
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, kernel_size=kernel_size, dilation=dilation)
        require_divisible("channels", channels, "group", group)
        require_activation("act", act)
        require_choice("norm", norm, ("layer", "batch"))
        depthwise = kernel_size if dw_kernel_size is None else dw_kernel_size
        require_odd(dw_kernel_size=depthwise)
        if remove_center and kernel_size % 2 == 0:
            raise ValueError(
                f"remove_center needs an odd kernel_size, got {kernel_size}: there is no tap in the middle of an even one."
            )
        reach = dilation * (kernel_size - 1)
        if reach % 2 or pad != reach // 2:
            raise ValueError(
                f"pad must be dilation * (kernel_size - 1) / 2 to keep the size of the map, got pad={pad}, "
                f"kernel_size={kernel_size} and dilation={dilation}: use an odd kernel_size and pad={reach // 2}."
            )
        self.channels, self.group, self.offset_scale = channels, group, offset_scale
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, depthwise, padding=depthwise // 2, groups=channels)
        )
        self.norm: nn.Module | None = None
        if norm == "batch":
            self.depthwise.append(nn.BatchNorm2d(channels))
        else:
            self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.act = activation(act)
        # Taps are counted column by column.
        taps = [(x, y) for x in range(kernel_size) for y in range(kernel_size)]
        if remove_center:
            del taps[len(taps) // 2]
        self.taps = len(taps)
        grid = torch.tensor(taps, dtype=torch.float32) * dilation - reach // 2
        self.register_buffer("grid", (grid * offset_scale).t().contiguous(), persistent=False)
        self.offset = nn.Linear(channels, group * self.taps * 2)
        self.mask = nn.Linear(channels, group * self.taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.center_scale = nn.Linear(channels, group) if center_feature_scale else None
        for layer in (self.offset, self.mask, *([] if self.center_scale is None else [self.center_scale])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the scale of the offsets into their projection."""
        if self.offset_scale == 1:
            return None
        self.offset.weight.copy_(self.offset.weight.double() * self.offset_scale)
        self.offset.bias.copy_(self.offset.bias.double() * self.offset_scale)
        self.offset_scale = 1.0
        return "folded the scale into the offsets"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "DCNv3")
        height, width = x.shape[2], x.shape[3]
        places = height * width
        values = self.input_proj(x.permute(0, 2, 3, 1))
        features = self.depthwise(x).permute(0, 2, 3, 1)
        features = self.act(features if self.norm is None else self.norm(features))
        offset = coordinates_like(self.offset(features)).reshape(-1, places, self.group, self.taps, 2)
        if self.offset_scale != 1:
            offset = offset * self.offset_scale
        mask = self.mask(features).reshape(-1, places, self.group, self.taps).softmax(3)
        columns, rows = self._places(height, width, offset)
        sums = bilinear_sums(
            values,
            offset[:, :, :, :, 0] + columns,
            offset[:, :, :, :, 1] + rows,
            channels=self.channels,
            groups=self.group,
            taps=self.taps,
            weights=mask,
        )
        if self.center_scale is not None:
            scale = self.center_scale(features).sigmoid().reshape(-1, places, self.group, 1)
            sums = sums * (1 - scale) + values.reshape(-1, places, self.group, self.channels // self.group) * scale
        return self.output_proj(sums.reshape(-1, height, width, self.channels)).permute(0, 3, 1, 2)

    def _places(self, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Columns and rows of all taps without offset: (height * width, 1, taps) twice."""
        grid = self.grid.to(like.dtype)
        x = torch.arange(width, device=like.device).to(like.dtype).reshape(1, -1, 1) + grid[0]
        y = torch.arange(height, device=like.device).to(like.dtype).reshape(-1, 1, 1) + grid[1]
        rows = (torch.zeros_like(x[:, :, :1]) + y).reshape(-1, 1, self.taps)
        columns = (torch.zeros_like(y[:, :, :1]) + x).reshape(-1, 1, self.taps)
        return columns, rows
