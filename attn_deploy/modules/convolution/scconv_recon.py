"""SCConv by spatial and channel reconstruction, with its two units SRU and CRU.

Paper: SCConv: Spatial and Channel Reconstruction Convolution for Feature Redundancy, CVPR 2023.
Official: none by the authors; cheng-haha/ScConv, ScConv.py (SRU, CRU, ScConv), the implementation in use.
Export: the gates are one Where each, and the scales of the normalisation are summed by one reduction instead of an addition
    for each channel. The threshold is held against the logits: a sigmoid near 0.5 has lost the digits that decide, and
    each runtime rounds them its own way. Fused, the shares of the scales
    are part of the normalisation. Equal.
Deviations: the paper's two gates are complementary; in the code, which trained weights belong to, the weak half of the map
    keeps its soft weight in both. Not the self-calibrated convolution, which is `sc_conv` here.
Limits: the gate jumps where the normalised map is 0: a value within rounding of that changes by half of itself, in fp16 and
    int8 in particular. Compare shares of elements there, not the largest difference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    global_avg_pool,
    require_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register("scconv_recon_sru", aliases=("sru", "spatial_reconstruction_unit"), parameters=128)
class SpatialReconstruction(Fusible, nn.Module):
    """Splits a map into informative and redundant values by its GroupNorm, and adds the halves of both crosswise.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        group_num: groups of the GroupNorm.
        gate_threshold: above it, a weight counts as informative.

    Raises:
        ValueError: if channels is odd, group_num does not divide it, or gate_threshold is not between 0 and 1.
    """

    def __init__(self, channels: int, *, group_num: int = 16, gate_threshold: float = 0.5) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_divisible("channels", channels, "group_num", group_num)
        require_divisible("channels", channels, "the number of halves", 2)
        if not 0 < gate_threshold < 1:
            raise ValueError(f"gate_threshold must be above 0 and below 1, got {gate_threshold}: weights are sigmoids.")
        self.channels = channels
        self.threshold = math.log(gate_threshold / (1 - gate_threshold))
        self.gn = nn.GroupNorm(group_num, channels)
        self.shares_are_folded = False

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the share of each channel in the scales into the normalisation."""
        if self.shares_are_folded:
            return None
        weight, bias = self.gn.weight.double(), self.gn.bias.double()
        self.gn.weight.copy_(weight * weight / weight.sum())
        self.gn.bias.copy_(bias * weight / weight.sum())
        self.shares_are_folded = True
        return "folded the channel shares of the gate into the GroupNorm"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SpatialReconstruction")
        logits = self.gn(x)
        if not self.shares_are_folded:
            logits = logits * (self.gn.weight / self.gn.weight.sum()).reshape(1, -1, 1, 1)
        informative = logits > self.threshold
        soft = x * logits.sigmoid()
        strong, weak = torch.where(informative, x, soft), torch.where(informative, torch.zeros_like(soft), soft)
        half = self.channels // 2
        return torch.cat([strong[:, :half] + weak[:, half:], strong[:, half:] + weak[:, :half]], 1)


@register("scconv_recon_cru", aliases=("cru", "channel_reconstruction_unit"), parameters=7488)
class ChannelReconstruction(nn.Module):
    """Transforms a rich and a poor part of the channels at different cost, and weighs both results against each other.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W. The weights are a softmax over 2 * C, so values are about 1 / C of
    the input's.

    Args:
        channels: C.
        alpha: share of the channels in the rich part.
        squeeze_ratio: factor by which both parts are narrowed first.
        group_size: groups of the k x k convolution.
        group_kernel_size: k.

    Raises:
        ValueError: if alpha is not between 0 and 1, a part has no channel left when narrowed, group_size does not divide
            the channels, or group_kernel_size is even.
    """

    def __init__(
        self,
        channels: int,
        *,
        alpha: float = 0.5,
        squeeze_ratio: int = 2,
        group_size: int = 2,
        group_kernel_size: int = 3,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, squeeze_ratio=squeeze_ratio)
        require_odd(group_kernel_size=group_kernel_size)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be above 0 and below 1, got {alpha}: it is the share of the rich part.")
        rich = int(alpha * channels)
        poor = channels - rich
        narrow_rich, narrow_poor = rich // squeeze_ratio, poor // squeeze_ratio
        if min(narrow_rich, narrow_poor) < 1:
            raise ValueError(
                f"both parts need a channel when narrowed, got channels={channels}, alpha={alpha} and "
                f"squeeze_ratio={squeeze_ratio}, which leave {narrow_rich} and {narrow_poor}: use more channels."
            )
        require_divisible("channels", channels, "group_size", group_size)
        require_divisible("int(alpha * channels) // squeeze_ratio", narrow_rich, "group_size", group_size)
        self.channels, self.rich = channels, rich
        self.squeeze1 = nn.Conv2d(rich, narrow_rich, 1, bias=False)
        self.squeeze2 = nn.Conv2d(poor, narrow_poor, 1, bias=False)
        self.GWC = nn.Conv2d(
            narrow_rich, channels, group_kernel_size, padding=group_kernel_size // 2, groups=group_size
        )
        self.PWC1 = nn.Conv2d(narrow_rich, channels, 1, bias=False)
        self.PWC2 = nn.Conv2d(narrow_poor, channels - narrow_poor, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ChannelReconstruction")
        rich, poor = self.squeeze1(x[:, : self.rich]), self.squeeze2(x[:, self.rich :])
        rich = self.GWC(rich) + self.PWC1(rich)
        poor = torch.cat([self.PWC2(poor), poor], 1)
        weights = torch.cat([global_avg_pool(rich), global_avg_pool(poor)], 1).softmax(1)
        return rich * weights[:, : self.channels] + poor * weights[:, self.channels :]


@register("scconv_recon", aliases=("scconv_sru_cru",), parameters=7616)
class SCConvReconstruct(nn.Module):
    """Reconstructs a map along space, then along channels, to drop what is redundant in it.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        group_num: groups of the GroupNorm of the spatial unit.
        gate_threshold: above it, a weight of the spatial unit counts as informative.
        alpha: share of the channels in the rich part of the channel unit.
        squeeze_ratio: factor by which both of its parts are narrowed first.
        group_size: groups of its k x k convolution.
        group_kernel_size: k.

    Raises:
        ValueError: as the two units do.
    """

    official_keys = {"SRU": "spatial", "CRU": "channel"}

    def __init__(
        self,
        channels: int,
        *,
        group_num: int = 4,
        gate_threshold: float = 0.5,
        alpha: float = 0.5,
        squeeze_ratio: int = 2,
        group_size: int = 2,
        group_kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.spatial = SpatialReconstruction(channels, group_num=group_num, gate_threshold=gate_threshold)
        self.channel = ChannelReconstruction(
            channels,
            alpha=alpha,
            squeeze_ratio=squeeze_ratio,
            group_size=group_size,
            group_kernel_size=group_kernel_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SCConvReconstruct")
        return self.channel(self.spatial(x))
