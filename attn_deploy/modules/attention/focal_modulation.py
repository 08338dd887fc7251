"""Focal modulation.

Paper: Focal Modulation Networks, NeurIPS 2022, arXiv:2203.11926.
Official: microsoft/FocalNet, classification/focalnet.py (FocalModulation); its input is (N, H, W, C).
Export: linear layers on the last axis are 1x1 convolutions, so that no map is permuted, and nothing is stored on the
    module. Equal up to rounding. Fusing puts the division by the number of levels into the weights after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, global_avg_pool, require_odd, require_positive
from attn_deploy.ops.layer_norm_2d import LayerNormOverChannels
from attn_deploy.registry import register


@register(
    "focal_modulation",
    aliases=("focalnet",),
    reference={"channels": 64, "focal_window": 3, "focal_level": 2},
    parameters=19011,
)
class FocalModulation(Fusible, nn.Module):
    """Multiplies a query of each position by a gated sum of contexts of growing reach, the whole map the last.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        focal_window: kernel of the first depthwise convolution.
        focal_level: number of depthwise convolutions.
        focal_factor: by how much the kernel grows from level to level.
        bias: whether the first two projections have a bias.
        use_postln_in_modulation: normalise over the channels before the last projection.
        normalize_modulator: divide the sum of contexts by their number.

    Raises:
        ValueError: if a kernel is even, or focal_level is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        focal_window: int,
        focal_level: int,
        focal_factor: int = 2,
        bias: bool = True,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, focal_level=focal_level)
        self.channels, self.focal_level = channels, focal_level
        self.divisor = focal_level + 1 if normalize_modulator else 1
        self.f = nn.Conv2d(channels, 2 * channels + focal_level + 1, 1, bias=bias)
        self.h = nn.Conv2d(channels, channels, 1, bias=bias)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.focal_layers = nn.ModuleList()
        for level in range(focal_level):
            kernel = focal_window + focal_factor * level
            require_odd(**{f"focal_window + {level} * focal_factor": kernel})
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
            self.focal_layers.append(nn.Sequential(conv, nn.GELU()))
        self.ln = LayerNormOverChannels(channels, eps=1e-5) if use_postln_in_modulation else None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "FocalModulation")
        query, context, *gates = torch.split(
            self.f(x), [self.channels, self.channels, *[1] * (self.focal_level + 1)], 1
        )
        total = None
        for layer, gate in zip(self.focal_layers, gates, strict=False):
            context = layer(context)
            total = context * gate if total is None else total + context * gate
        total = total + F.gelu(global_avg_pool(context)) * gates[-1]
        if self.divisor > 1:
            total = total / self.divisor
        y = query * self.h(total)
        return self.proj(y if self.ln is None else self.ln(y))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the division by the number of levels into the weights after it."""
        if self.divisor == 1:
            return None
        self.h.weight /= self.divisor
        self.divisor = 1
        return "put the division by the number of levels into a convolution"
