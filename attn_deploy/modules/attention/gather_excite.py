"""Gather-Excite.

Paper: Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks, NeurIPS 2018, arXiv:1810.12348.
Official: hujie-frank/GENet (Caffe), models/RN50-GEPF.prototxt (theta-minus), RN50-GEP.prototxt (theta) and
    RN50-GEPP.prototxt (theta-plus), all of global extent; other extents as in the repository's figures.
Export: up-sampling is nearest in integer arithmetic, since runtimes round Resize differently; the depthwise
    convolution over the whole map is a product and a sum, (x * weight).sum((2, 3)), which is the same number without
    a 56x56 kernel.
Deviations: border windows of the average pooling count valid positions only, as in timm (the official files do not
    say); timm's own learned and theta-plus forms cannot be constructed or pad the global kernel.
Limits: theta and theta-plus of global extent have a kernel as large as the map, so H and W are fixed at feat_size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    check_channels,
    global_avg_pool,
    require_choice,
    require_positive,
    require_reduced,
    resize_nearest,
)
from attn_deploy.ops.sizes import require_exact_size
from attn_deploy.registry import Input, register

VARIANTS = ("theta_minus", "theta", "theta_plus")
FIXED_MAP = {
    "inputs": (Input("x", ("N", "channels", "feat_size[0]", "feat_size[1]")),),
    "dynamic": ("N",),
}


@register(
    "ge_theta_minus",
    aliases=("gather_excite", "genet"),
    reference={"channels": 64, "variant": "theta_minus"},
    parameters=0,
    summary="Gates each channel by its average over a neighbourhood or the whole map, without parameters (GE-θ⁻).",
)
@register(
    "ge_theta",
    reference={"channels": 64, "variant": "theta", "feat_size": (32, 32)},
    parameters=65664,
    summary="Gates each channel by a learned depthwise summary of a neighbourhood or the whole map (GE-θ).",
    **FIXED_MAP,
)
@register(
    "ge_theta_plus",
    reference={"channels": 64, "variant": "theta_plus", "feat_size": (32, 32)},
    parameters=66244,
    summary="Gates channels by a learned depthwise summary of the whole map and a bottleneck of 1x1 layers (GE-θ⁺).",
    **FIXED_MAP,
)
class GatherExcite(nn.Module):
    """Gates each channel by what a gathering operator finds in its neighbourhood, or in its whole map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W, but for learned gathering of global extent: dynamic N.

    Args:
        channels: C.
        variant: "theta_minus" gathers by averages, "theta" by depthwise convolutions, "theta_plus" adds a bottleneck.
        extent: side of the neighbourhood, a power of 2; 0 gathers the whole map.
        feat_size: (H, W) of the input; needed by "theta" and "theta_plus" of global extent, else without effect.
        reduction: factor by which the bottleneck of "theta_plus" is narrower than C.

    Raises:
        ValueError: if variant is unknown, extent is no power of 2, feat_size is missing or no pair of sizes,
            channels // reduction < 1, or the input is not of feat_size.
    """

    def __init__(
        self,
        channels: int,
        *,
        variant: str = "theta_minus",
        extent: int = 0,
        feat_size: tuple[int, int] | None = None,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("variant", variant, VARIANTS)
        if not isinstance(extent, int) or extent < 0 or extent == 1 or extent & (extent - 1):
            raise ValueError(f"extent must be 0 (global) or a power of 2 from 2 on, got {extent!r}: use 0, 2, 4 or 8.")
        self.channels = channels
        self.extent = extent
        self.feat_size: tuple[int, int] | None = None
        self.gather = self.down = self.up = None
        if variant == "theta_minus":
            return
        if extent:
            layers: list[nn.Module] = []
            for _ in range(extent.bit_length() - 1):
                conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
            self.gather = nn.Sequential(*layers[:-1])
        else:
            self.feat_size = self._map_size(feat_size, variant)
            conv = nn.Conv2d(channels, channels, self.feat_size, groups=channels, bias=False)
            self.gather = nn.Sequential(conv, nn.BatchNorm2d(channels))
        if variant == "theta_plus":
            width = require_reduced(channels, reduction)
            self.down = nn.Conv2d(channels, width, 1)
            self.up = nn.Conv2d(width, channels, 1)

    @staticmethod
    def _map_size(feat_size: tuple[int, int] | None, variant: str) -> tuple[int, int]:
        if feat_size is None:
            raise ValueError(
                f"feat_size must be given for variant={variant!r} with extent=0, got None: its kernel is as large as "
                "the map. Give feat_size=(H, W), or an extent of 2, 4 or 8."
            )
        if isinstance(feat_size, int) or len(feat_size) != 2:
            raise ValueError(f"feat_size must be (H, W), got {feat_size!r}: use feat_size=(14, 14) for a 14x14 map.")
        height, width = feat_size
        require_positive(**{"feat_size[0]": height, "feat_size[1]": width})
        return height, width

    def _gathered(self, x: Tensor) -> Tensor:
        if self.gather is None:
            if not self.extent:
                return global_avg_pool(x)
            kernel = 2 * self.extent - 1
            return F.avg_pool2d(x, kernel, self.extent, self.extent - 1, count_include_pad=False)
        if self.feat_size is None:
            return self.gather(x)
        require_exact_size(x, *self.feat_size, "GatherExcite")
        whole, norm = self.gather
        total = (x * whole.weight.reshape(1, self.channels, *self.feat_size)).sum((2, 3), keepdim=True)
        return norm(total if whole.bias is None else total + whole.bias.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GatherExcite")
        gathered = self._gathered(x)
        if self.down is not None:
            gathered = self.up(self.down(gathered.relu()).relu())
        if self.extent:
            gathered = resize_nearest(gathered, x.shape[2], x.shape[3])
        return x * gathered.sigmoid()
