"""ASFF: three levels of a pyramid brought to the size of one and added with weights of each position.

Paper: Learning Spatial Fusion for Single-Shot Object Detection, 2019, arXiv:1911.09516.
Official: ruinmessi/ASFF, models/network_blocks.py (ASFF, ASFFmobile).
Export: Resize by the constants 2 and 4 (nearest, exact), Conv and MaxPool; nothing had to be replaced. Fusing folds every
    BatchNorm.
Deviations: the official widths are fixed, 512, 256 and 256 (mobile: 128) in, 1024, 512 and 256 out; here they are
    arguments. act="relu6" is ASFFmobile, which also narrows the middle map for the finest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, check_channels, require_choice, require_positive
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

ACTIVATIONS = {"leaky": "leaky_relu", "relu6": "relu6"}


def _enlarged(x: Tensor, times: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(times), mode="nearest")


@register(
    "asff",
    aliases=("adaptively_spatial_feature_fusion",),
    reference={"in_channels": (64, 64, 64), "level": 1, "out_channels": 64},
    parameters=81523,
    inputs=(
        Input("coarse", ("N", "in_channels[0]", "H", "W")),
        Input("middle", ("N", "in_channels[1]", "2*H", "2*W")),
        Input("fine", ("N", "in_channels[2]", "4*H", "4*W")),
    ),
    sizes={"H": 5, "W": 6},
)
class ASFF(nn.Module):
    """Fuses three levels at the size of one, by a softmax over the levels at each position.

    Shape: (N, C_0, H, W), (N, C_1, 2H, 2W), (N, C_2, 4H, 4W) -> (N, C_out, h, w) with the size of the level's own map;
    dynamic N, H, W.

    Args:
        in_channels: C_0, C_1 and C_2, coarse to fine.
        level: whose size the output has: 0, 1 or 2.
        out_channels: C_out.
        rfb: half of the 16 channels from which each level's weight is computed.
        act: "leaky" (slope 0.1), or "relu6" for the mobile form.

    Raises:
        ValueError: if level or act is unknown, in_channels does not hold three counts, the middle map must already have
            the finest one's channels and does not, or a map does not fit.
    """

    def __init__(
        self, in_channels: Sequence[int], level: int, out_channels: int, *, rfb: bool = False, act: str = "leaky"
    ) -> None:
        super().__init__()
        require_choice("level", level, (0, 1, 2))
        require_choice("act", act, ACTIVATIONS)
        if isinstance(in_channels, int) or len(in_channels) != 3:
            raise ValueError(
                f"in_channels must hold the channels of three maps, coarse to fine, got {in_channels!r}: use "
                "(512, 256, 256)."
            )
        require_positive(out_channels=out_channels, **{f"in_channels[{i}]": c for i, c in enumerate(in_channels)})
        coarse, middle, fine = in_channels
        width = in_channels[level]
        self.in_channels, self.level = tuple(in_channels), level

        def layer(taken: int, given: int, kernel_size: int = 1, stride: int = 1) -> nn.Module:
            return ConvNormAct(taken, given, kernel_size, stride=stride, act=ACTIVATIONS[act])

        self.compress_level_1: nn.Module = nn.Identity()
        if level == 0:
            self.stride_level_1 = layer(middle, width, 3, 2)
            self.stride_level_2 = layer(fine, width, 3, 2)
        else:
            self.compress_level_0 = layer(coarse, width)
        if level == 1:
            self.stride_level_2 = layer(fine, width, 3, 2)
        if level == 2 and act == "relu6":
            self.compress_level_1 = layer(middle, width)
        elif level == 2 and middle != fine:
            raise ValueError(
                f"level=2 takes the middle map as it is, so its channels must be the fine map's, got "
                f"in_channels={tuple(in_channels)}: use in_channels={(coarse, fine, fine)}, or act='relu6', which narrows "
                "it."
            )
        self.expand = layer(width, out_channels, 3)
        weights = 8 if rfb else 16
        self.weight_level_0 = layer(width, weights)
        self.weight_level_1 = layer(width, weights)
        self.weight_level_2 = layer(width, weights)
        self.weight_levels = nn.Conv2d(3 * weights, 3, 1)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official layers call their BatchNorm batch_norm."""
        return {k.replace(".batch_norm.", ".bn."): v for k, v in state.items()}

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        self._check((coarse, middle, fine))
        maps = self._resized(coarse, middle, fine)
        layers = (self.weight_level_0, self.weight_level_1, self.weight_level_2)
        logits = self.weight_levels(torch.cat([layer(x) for layer, x in zip(layers, maps, strict=True)], 1))
        weights = logits.softmax(1)
        fused = maps[0] * weights[:, :1] + maps[1] * weights[:, 1:2] + maps[2] * weights[:, 2:]
        return self.expand(fused)

    def _resized(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.level == 0:
            return coarse, self.stride_level_1(middle), self.stride_level_2(F.max_pool2d(fine, 3, 2, 1))
        compressed = self.compress_level_0(coarse)
        if self.level == 1:
            return _enlarged(compressed, 2), middle, self.stride_level_2(fine)
        return _enlarged(compressed, 4), _enlarged(self.compress_level_1(middle), 2), fine

    def _check(self, maps: Sequence[Tensor]) -> None:
        for x, width in zip(maps, self.in_channels, strict=True):
            check_channels(x, width, "ASFF")
        if not sizes_are_known():
            return
        sizes = [tuple(x.shape[2:]) for x in maps]
        if any(sizes[i] != (2**i * sizes[0][0], 2**i * sizes[0][1]) for i in (1, 2)):
            raise ValueError(
                f"ASFF: each map must be twice as large as the one before it, got {', '.join(map(str, sizes))}: pad the "
                "image to a multiple of the coarsest level's stride."
            )
