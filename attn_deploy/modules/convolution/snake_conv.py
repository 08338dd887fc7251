"""Dynamic snake convolution: a line of taps that bends along thin structures.

Paper: Dynamic Snake Convolution based on Topological Geometric Constraints for Tubular Structure Segmentation, ICCV 2023,
    arXiv:2307.08388.
Official: YaoleiQi/DSCNet, DSCNet_2D_opensource/Code/DRIVE/S3_DSConv_pro.py (DSConv_pro), the authors' later version.
Export: positions stay in pixels and the four neighbours of each sample are gathered, at any opset; GridSample needs 16. The
    running sums of offsets are a 1x1 convolution with a constant triangular kernel, and the samples of a position are
    channels of one more 1x1 convolution instead of rows of a map k times longer. Fused, offsets that are never used are
    not computed. Equal up to rounding.
Deviations: the official class makes its coordinates on the device named at construction, 'cuda' by default; here they
    follow the input. It owns the kernels of both directions: the one that is not used is left out (36928 of 84406
    parameters at 64 channels). Its argument if_offset does nothing and is left out.
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
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register(
    "snake_conv",
    aliases=("dsconv_snake", "dsc", "dynamic_snake_conv", "dy_snake_conv", "dsconv_pro"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=47478,
)
class DynamicSnakeConv2d(Fusible, nn.Module):
    """Convolves along a line whose taps stray from it step by step, each step learned from the map.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, the number of taps.
        extend_scope: pixels that a tap strays from its neighbour at most.
        morph: 0 for a line along the rows that strays up and down, 1 for one along the columns.

    Raises:
        ValueError: if kernel_size is even, morph is neither 0 nor 1, or out_channels is not a multiple of 4.
    """

    running_sum: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 9,
        extend_scope: float = 1.0,
        morph: int = 0,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_odd(kernel_size=kernel_size)
        require_choice("morph", morph, (0, 1))
        require_divisible("out_channels", out_channels, "the channels of a GroupNorm group", 4)
        # Both kernels are stored; which one is used depends on the direction.
        self.official_keys = (
            {"dsc_conv_x": "mix", "dsc_conv_y": None}
            if morph == 0
            else {
                "dsc_conv_x": None,
                "dsc_conv_y": "mix",
            }
        )
        self.in_channels, self.kernel_size, self.morph = in_channels, kernel_size, morph
        self.offset_conv = nn.Conv2d(in_channels, 2 * kernel_size, 3, padding=1)
        self.gn_offset = nn.GroupNorm(kernel_size, 2 * kernel_size)
        self.mix = nn.Conv2d(in_channels * kernel_size, out_channels, 1)
        self.gn = nn.GroupNorm(out_channels // 4, out_channels)
        # How far each tap strays: the sum of the steps from the middle to it. Rows' steps come before columns' ones.
        tap, step = torch.arange(kernel_size).unsqueeze(1), torch.arange(kernel_size).unsqueeze(0)
        middle = kernel_size // 2
        summed = ((step > middle) & (step <= tap)) | ((step < middle) & (step >= tap))
        sums = F.pad(summed.float() * extend_scope, (morph * kernel_size, (1 - morph) * kernel_size))
        self.register_buffer("running_sum", sums.unsqueeze(2).unsqueeze(3), persistent=False)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A kernel along a line, over a map with all samples of a position in a row, is 1x1 over the samples."""
        return {k: v.flatten(1).unsqueeze(2).unsqueeze(3) if k == "mix.weight" else v for k, v in state.items()}

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Keep the offsets of the one direction that is used, and the one that shares a GroupNorm group with them."""
        kept = self.kernel_size + 1
        if self.offset_conv.out_channels == kept:
            return None
        part = slice(None, kept) if self.morph == 0 else slice(-kept, None)
        for layer in (self.offset_conv, self.gn_offset):
            layer.weight = nn.Parameter(layer.weight[part].clone())
            layer.bias = nn.Parameter(layer.bias[part].clone())
        self.offset_conv.out_channels = kept
        self.gn_offset.num_groups, self.gn_offset.num_channels = kept // 2, kept
        self.running_sum = self.running_sum[:, part].clone()
        return f"dropped {self.kernel_size - 1} unused offsets"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DynamicSnakeConv2d")
        height, width = x.shape[2], x.shape[3]
        steps = coordinates_like(self.gn_offset(self.offset_conv(x)).tanh())
        strays = F.conv2d(steps, self.running_sum.to(steps.dtype))
        row = torch.arange(height, device=x.device).to(steps.dtype).reshape(1, -1, 1)
        column = torch.arange(width, device=x.device).to(steps.dtype).reshape(1, 1, -1)
        along = (torch.arange(self.kernel_size, device=x.device) - self.kernel_size // 2).to(steps.dtype)
        along = along.reshape(-1, 1, 1)
        if self.morph == 0:
            rows, columns = strays + row, torch.zeros_like(strays) + (column + along)
        else:
            rows, columns = torch.zeros_like(strays) + (row + along), strays + column
        values = bilinear_sample(
            x.permute(0, 2, 3, 1),
            columns.flatten(2).transpose(1, 2).unsqueeze(2),
            rows.flatten(2).transpose(1, 2).unsqueeze(2),
            channels=self.in_channels,
            taps=self.kernel_size,
            padding="border",
        )
        samples = values.permute(0, 4, 3, 2, 1).reshape(-1, self.in_channels * self.kernel_size, height, width)
        return self.gn(self.mix(samples)).relu()
