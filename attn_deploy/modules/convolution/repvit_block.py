"""RepViT's block: a re-parameterised depthwise token mixer, a channel gate and a widened channel mixer.

Paper: RepViT: Revisiting Mobile CNN From ViT Perspective, CVPR 2024, arXiv:2307.09283.
Official: THU-MIG/RepViT, model/repvit.py (RepViTBlock, RepVGGDW), with timm's SqueezeExcite.
Export: fused, the three branches of the token mixer and the BatchNorm after them are one depthwise convolution. Equal up to
    rounding.
Deviations: the official argument use_hs has no effect (GELU either way) and is left out. At stride 1 the official token
    mixer is 3x3 whatever kernel_size says; here another kernel_size is refused there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    add_parallel_conv_,
    check_channels,
    conv_bn_act,
    fold_bn_into_conv,
    global_avg_pool,
    make_divisible,
    require_choice,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


class RepVGGDW(Fusible, nn.Module):
    """BatchNorm of the sum of a 3x3 depthwise convolution with BatchNorm, a 1x1 one with bias, and the map itself.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large: nn.Module = conv_bn_act(channels, channels, 3, groups=channels)
        self.small: nn.Module | None = nn.Conv2d(channels, channels, 1, groups=channels)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.small is None:
            return self.large(x)
        return self.norm(self.large(x) + self.small(x) + x)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One depthwise convolution."""
        if self.small is None:
            return None
        merged = add_parallel_conv_(fold_bn_into_conv(*self.large), self.small)
        merged.weight[:, :, 1, 1] += 1
        self.large, self.small, self.norm = fold_bn_into_conv(merged, self.norm), None, nn.Identity()
        return "merged three branches into one convolution"


@register(
    "repvit_block",
    aliases=("repvit",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=17728,
)
class RepViTBlock(nn.Module):
    """Mixes space by a depthwise convolution, gates the channels if asked, and mixes them by a widened pair around a skip.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out, which is C_in at stride 1.
        kernel_size: of the depthwise convolution; 3 at stride 1.
        stride: 1 or 2.
        use_se: whether the channels are gated.
        expand_ratio: factor by which the middle of the channel mixer is wider; only 2 exists.

    Raises:
        ValueError: if stride is not 1 or 2, expand_ratio is not 2, kernel_size is even, or C_out is not C_in or kernel_size
            not 3 at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        use_se: bool = False,
        expand_ratio: int = 2,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_odd(kernel_size=kernel_size)
        require_choice("stride", stride, (1, 2))
        if expand_ratio != 2:
            raise ValueError(f"expand_ratio must be 2, got {expand_ratio}: the official block has no other.")
        if stride == 1 and (in_channels != out_channels or kernel_size != 3):
            raise ValueError(
                f"stride=1 needs out_channels == in_channels and kernel_size == 3, got in_channels={in_channels}, "
                f"out_channels={out_channels} and kernel_size={kernel_size}: use stride=2 to change them."
            )
        self.in_channels = in_channels
        gate = _Gate(in_channels) if use_se else nn.Identity()
        if stride == 1:
            self.token_mixer = nn.Sequential(RepVGGDW(in_channels), gate)
            inner = {"0.conv.c": "0.large.0", "0.conv.bn": "0.large.1", "0.conv1": "0.small", "0.bn": "0.norm"}
        else:
            self.token_mixer = nn.Sequential(
                conv_bn_act(in_channels, in_channels, kernel_size, stride=2, groups=in_channels),
                gate,
                conv_bn_act(in_channels, out_channels),
            )
            inner = {"0.c": "0.0", "0.bn": "0.1", "2.c": "2.0", "2.bn": "2.1"}
        self.widen = conv_bn_act(out_channels, 2 * out_channels, act="gelu")
        self.narrow = conv_bn_act(2 * out_channels, out_channels)
        nn.init.zeros_(self.narrow[1].weight)
        self.official_keys = {
            **{f"token_mixer.{k}": f"token_mixer.{v}" for k, v in inner.items()},
            "channel_mixer.m.0.c": "widen.0",
            "channel_mixer.m.0.bn": "widen.1",
            "channel_mixer.m.2.c": "narrow.0",
            "channel_mixer.m.2.bn": "narrow.1",
        }

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RepViTBlock")
        y = self.token_mixer(x)
        return y + self.narrow(self.widen(y))


class _Gate(nn.Module):
    """Squeeze-and-excitation of a quarter of the channels, a multiple of 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = make_divisible(channels * 0.25, 8, round_limit=0.0)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(global_avg_pool(x)).relu()).sigmoid()
