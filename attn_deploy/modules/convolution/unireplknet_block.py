"""UniRepLKNet: a large depthwise kernel trained beside dilated small ones, and the block around it.

Paper: UniRepLKNet: A Universal Perception Large-Kernel ConvNet, CVPR 2024, arXiv:2311.15599.
Official: AILab-CVC/UniRepLKNet, unireplknet.py (DilatedReparamBlock, UniRepLKNetBlock).
Export: fused, every dilated kernel is a dense one with zeros between its taps, added onto the large kernel: one depthwise
    convolution. The two Linear layers are 1x1 convolutions and global response normalisation works on (N, C, H, W), so no
    Transpose is left; its beta, the last BatchNorm and the layer scale are in the second of them. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    Fusible,
    ResponseNorm,
    add_parallel_conv_,
    check_channels,
    conv_bn_act,
    fold_bn_into_conv,
    global_avg_pool,
    require_choice,
    require_positive,
    require_reduced,
    scale_conv_output_,
)
from attn_deploy.registry import register

# Of each large kernel, the small kernels beside it and their dilations.
BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


@register(
    "dilated_reparam_block",
    aliases=("unireplknet_conv",),
    reference={"channels": 64, "kernel_size": 7},
    parameters=6400,
)
class DilatedReparamBlock(Fusible, nn.Module):
    """The sum of a large depthwise convolution and of dilated small ones, each with its own BatchNorm.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: of the large kernel: 5, 7, 9, 11, 13, 15 or 17.

    Raises:
        ValueError: if kernel_size is another, or channels is below 1.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("kernel_size", kernel_size, BRANCHES)
        self.channels = channels
        self.large: nn.Module = conv_bn_act(channels, channels, kernel_size, groups=channels)
        self.dilated = nn.ModuleList(
            conv_bn_act(channels, channels, k, dilation=r, groups=channels) for k, r in BRANCHES[kernel_size]
        )
        self.official_keys = {"lk_origin": "large.0", "origin_bn": "large.1"}
        for index, (k, r) in enumerate(BRANCHES[kernel_size]):
            self.official_keys[f"dil_conv_k{k}_{r}"] = f"dilated.{index}.0"
            self.official_keys[f"dil_bn_k{k}_{r}"] = f"dilated.{index}.1"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "DilatedReparamBlock")
        y = self.large(x)
        for branch in self.dilated:
            y = y + branch(x)
        return y

    def fuse_(self) -> str | None:
        """Fold every BatchNorm, then add each dilated kernel, with zeros between its taps, onto the large one."""
        if not isinstance(self.large, nn.Sequential):
            return None
        merged = fold_bn_into_conv(*self.large)
        for branch in self.dilated:
            add_parallel_conv_(merged, fold_bn_into_conv(*branch))
        self.large = merged
        count = 1 + len(self.dilated)
        self.dilated = nn.ModuleList()
        return f"merged {count} branches into one convolution"


@register(
    "unireplknet_block",
    aliases=("unireplknet", "unireplk"),
    reference={"channels": 64, "kernel_size": 7},
    parameters=42384,
)
class UniRepLKNetBlock(Fusible, nn.Module):
    """Filters each channel by a large kernel, gates the channels, then mixes them by a widened pair of layers.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: 7, 9, 11, 13, 15 or 17 for a dilated reparam block, 3 or 5 for a plain depthwise convolution, 0 for
            none, without the BatchNorm after it either.
        ffn_factor: factor by which the middle of the pair is wider than C.
        layer_scale_init_value: what the factor on the branch starts at; 0 or None leaves it out.
        drop_path: share of the samples whose branch is left out in training.

    Raises:
        ValueError: if kernel_size is another, channels is below 4, the middle has no channel, or drop_path is not a rate.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        ffn_factor: float = 4,
        layer_scale_init_value: float | None = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_choice("kernel_size", kernel_size, (0, 3, *BRANCHES))
        gate_width = require_reduced(channels, 4)
        width = int(ffn_factor * channels)
        if width < 1:
            raise ValueError(
                f"ffn_factor * channels must be at least 1, got ffn_factor={ffn_factor} and channels={channels}: use a "
                "larger ffn_factor, such as 4."
            )
        self.channels = channels
        value = float(layer_scale_init_value or 0)
        self.gamma = nn.Parameter(torch.full((channels,), value)) if value > 0 else None
        self.dwconv: nn.Module
        self.norm: nn.Module
        if kernel_size >= 7:
            self.dwconv = DilatedReparamBlock(channels, kernel_size=kernel_size)
        elif kernel_size:
            self.dwconv = nn.Conv2d(
                channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
            )
        else:
            self.dwconv = nn.Identity()
        self.norm = nn.BatchNorm2d(channels) if kernel_size else nn.Identity()
        self.se_down = nn.Conv2d(channels, gate_width, 1)
        self.se_up = nn.Conv2d(gate_width, channels, 1)
        self.pwconv1 = nn.Conv2d(channels, width, 1)
        self.act = nn.GELU()
        self.response = ResponseNorm(width)
        self.pwconv2 = conv_bn_act(width, channels)
        self.drop_path = DropPath(drop_path)
        self.official_keys = {
            "se.down": "se_down",
            "se.up": "se_up",
            "pwconv1.1": "pwconv1",
            "act.1": "response",
            "pwconv2.0": "pwconv2.0",
            "pwconv2.2": "pwconv2.1",
        }
        if kernel_size >= 7:
            inner = self.dwconv.official_keys
            self.official_keys |= {f"dwconv.{k}": f"dwconv.{v}" for k, v in inner.items()}

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "UniRepLKNetBlock")
        y = self.norm(self.dwconv(x))
        y = y * self.se_up(self.se_down(global_avg_pool(y)).relu()).sigmoid()
        y = self.pwconv2(self.response(self.act(self.pwconv1(y))))
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y)

    def fuse_(self) -> str | None:
        """Merge the kernels with the BatchNorm after them; put beta, the last BatchNorm and gamma into the second layer."""
        if self.response.beta is None:
            return None
        if isinstance(self.dwconv, DilatedReparamBlock):
            self.dwconv.fuse_()
            self.dwconv.large = fold_bn_into_conv(self.dwconv.large, self.norm)
        elif isinstance(self.dwconv, nn.Conv2d):
            self.dwconv = fold_bn_into_conv(self.dwconv, self.norm)
        self.norm = nn.Identity()
        self.response.move_beta_(self.pwconv2[0])
        self.pwconv2[0] = fold_bn_into_conv(self.pwconv2[0], self.pwconv2[1])
        self.pwconv2[1] = nn.Identity()
        if self.gamma is not None:
            scale_conv_output_(self.pwconv2[0], self.gamma)
            self.gamma = None
        return "merged the kernels and folded the normalisations and the layer scale"
