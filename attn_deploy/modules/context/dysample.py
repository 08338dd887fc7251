"""DySample: up-sampling by sampling the map at learned positions.

Paper: Learning to Upsample by Learning to Sample, ICCV 2023, arXiv:2308.15085.
Official: tiny-smart/dysample, dysample.py.
Export: the official code normalises positions by ranges that the TorchScript exporter fixes to the traced size, a file
    silently wrong at any other, and samples by GridSample, of opset 16. Here positions stay in pixels and the four
    neighbours of each are gathered, at any opset. Equal up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    bilinear_sample,
    check_channels,
    coordinates_like,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register

STATIC_RANGE, SCOPED_RANGE = 0.25, 0.5


@register("dysample", aliases=("dynamic_upsample",), parameters=2080)
class DySample(Fusible, nn.Module):
    """Samples the map bilinearly at a regular grid of positions plus predicted offsets.

    Shape: (N, C, H, W) -> (N, C, scale * H, scale * W); dynamic N, H, W.

    Args:
        channels: C.
        scale: how many times higher and wider the output is.
        style: "lp" predicts the offsets of all outputs at the source pixel; "pl" predicts them at the output, from the
            pixel-shuffled map.
        groups: groups of channels with offsets of their own.
        dyscope: whether the range of the offsets is predicted too.

    Raises:
        ValueError: if style is unknown, groups does not divide channels, or, for "pl", scale^2 does not.
    """

    init_pos: Tensor

    def __init__(
        self, channels: int, *, scale: int = 2, style: str = "lp", groups: int = 4, dyscope: bool = False
    ) -> None:
        super().__init__()
        require_positive(channels=channels, scale=scale)
        require_choice("style", style, ("lp", "pl"))
        require_divisible("channels", channels, "groups", groups)
        if style == "pl":
            require_divisible("channels", channels, "scale * scale", scale * scale)
        self.channels, self.scale, self.groups, self.style = channels, scale, groups, style
        inputs, outputs = (channels // scale**2, 2 * groups) if style == "pl" else (channels, 2 * groups * scale**2)
        self.offset = nn.Conv2d(inputs, outputs, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        self.scope = nn.Conv2d(inputs, outputs, 1, bias=False) if dyscope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)
        self.range = SCOPED_RANGE if dyscope else STATIC_RANGE
        place = (torch.arange(scale) - (scale - 1) / 2) / scale
        x, y = (
            place.reshape(1, 1, scale).expand(groups, scale, scale),
            place.reshape(1, scale, 1).expand(groups, scale, scale),
        )
        self.register_buffer("init_pos", torch.stack([x, y]).reshape(1, -1, 1, 1))
        self.places_are_folded = False

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the range of the offsets into their convolution and, where it comes next, the regular grid too."""
        if self.range == 1:
            return None
        bias = self.offset.bias.double() * self.range
        if self.style == "lp" and self.scope is None:
            bias = bias + self.init_pos.double().flatten()
            self.places_are_folded = True
        self.offset.weight.copy_(self.offset.weight.double() * self.range)
        self.offset.bias.copy_(bias)
        self.range = 1.0
        return "folded the range and the grid" if self.places_are_folded else "folded the range"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "DySample")
        height, width = x.shape[2] * self.scale, x.shape[3] * self.scale
        offsets = self._offsets(x).reshape(-1, 2, self.groups, height, width)
        # The source pixel of each output, and its samples, one for each group: (N, height * width, groups, 1).
        across = torch.arange(width, device=x.device) // self.scale
        down = torch.arange(height, device=x.device) // self.scale
        columns = offsets[:, 0] + across.to(offsets.dtype)
        rows = offsets[:, 1] + down.to(offsets.dtype).unsqueeze(1)
        values = bilinear_sample(
            x.permute(0, 2, 3, 1),
            columns.flatten(2).transpose(1, 2).unsqueeze(3),
            rows.flatten(2).transpose(1, 2).unsqueeze(3),
            channels=self.channels,
            groups=self.groups,
            padding="border",
        )
        return values.flatten(2).transpose(1, 2).reshape(-1, self.channels, height, width)

    def _offsets(self, x: Tensor) -> Tensor:
        """The offsets in pixels, x of all groups before y: (N, 2 * groups, scale * H, scale * W)."""
        if self.style == "pl":
            offsets = self._scoped(F.pixel_shuffle(x, self.scale))
            cells = offsets.reshape(-1, 2 * self.groups, x.shape[2], self.scale, x.shape[3], self.scale)
            places = self.init_pos.reshape(1, 2 * self.groups, 1, self.scale, 1, self.scale)
            return (coordinates_like(cells) + places).reshape(
                -1, 2 * self.groups, x.shape[2] * self.scale, x.shape[3] * self.scale
            )
        offsets = coordinates_like(self._scoped(x))
        if not self.places_are_folded:
            offsets = offsets + self.init_pos
        return F.pixel_shuffle(offsets, self.scale)

    def _scoped(self, x: Tensor) -> Tensor:
        offsets = self.offset(x)
        if self.scope is not None:
            offsets = offsets * self.scope(x).sigmoid()
        return offsets if self.range == 1 else offsets * self.range
