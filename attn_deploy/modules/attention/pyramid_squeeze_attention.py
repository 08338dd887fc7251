"""Pyramid squeeze attention of EPSANet.

Paper: EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural Network, ACCV 2022,
    arXiv:2105.14447.
Official: murufeng/EPSANet, models/epsanet.py (PSAModule) and models/SE_weight_module.py.
Export: the branches are concatenated once, pooled once and gated side by side by the shared squeeze-and-excitation; the
    official code keeps a stack of five axes and concatenates its slices. Equal up to rounding.
Deviations: External-Attention's PSA is not this module: it splits the input channels, keeps its convolutions in a list,
    where they are neither trained nor saved, and writes into its input. The polarized self-attentions, also called PSA,
    are psa_p and psa_s here, and the PSA of YOLO is psa_yolo.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    check_channels,
    global_avg_pool,
    require_divisible,
    require_multiple,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register

BRANCHES = 4
REDUCTION = 16


@register(
    "psa",
    aliases=("psa_module", "epsa", "epsanet", "pyramid_squeeze_attention"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=27121,
)
class PyramidSqueezeAttention(nn.Module):
    """Convolves with four kernel sizes and weights the branches by gates that compete for each channel.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; each branch gives a quarter, the last kernel's first.
        kernel_sizes: of the four convolutions.
        stride: step of the windows.
        groups: groups of the four convolutions.

    Raises:
        ValueError: if there are not four kernel sizes and groups, a kernel is even, out_channels is not a multiple of 4 or
            below 64, or a group does not divide in_channels or out_channels / 4.
    """

    official_keys = {
        **{f"conv_{i + 1}": f"convs.{i}" for i in range(BRANCHES)},
        "se.fc1": "reduce",
        "se.fc2": "expand",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        stride: int = 1,
        groups: Sequence[int] = (1, 4, 8, 16),
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        for name, values in (("kernel_sizes", kernel_sizes), ("groups", groups)):
            if not isinstance(values, (tuple, list)) or len(values) != BRANCHES:
                raise ValueError(f"{name} must hold {BRANCHES} numbers, one for each branch, got {values!r}.")
        require_multiple("out_channels", out_channels, BRANCHES, "each branch gives as many")
        width = out_channels // BRANCHES
        if width // REDUCTION < 1:
            raise ValueError(
                f"out_channels must be at least {BRANCHES * REDUCTION}, got out_channels={out_channels}: the gate's "
                f"hidden layer has out_channels // {BRANCHES * REDUCTION} channels, which would be 0."
            )
        self.in_channels, self.out_channels, self.width = in_channels, out_channels, width
        self.convs = nn.ModuleList()
        for index, (kernel, group) in enumerate(zip(kernel_sizes, groups, strict=True)):
            require_odd(**{f"kernel_sizes[{index}]": kernel})
            require_positive(**{f"groups[{index}]": group})
            require_divisible("in_channels", in_channels, f"groups[{index}]", group)
            require_divisible("out_channels // 4", width, f"groups[{index}]", group)
            self.convs.append(
                nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, groups=group, bias=False)
            )
        self.reduce = nn.Conv2d(width, width // REDUCTION, 1)
        self.expand = nn.Conv2d(width // REDUCTION, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "PyramidSqueezeAttention")
        maps = torch.cat([conv(x) for conv in reversed(self.convs)], 1)
        pooled = global_avg_pool(maps).reshape(-1, BRANCHES, self.width, 1).transpose(1, 2)
        gates = self.expand(self.reduce(pooled).relu()).sigmoid().softmax(2)
        return maps * gates.transpose(1, 2).reshape(-1, self.out_channels, 1, 1)
