"""Global Attention Mechanism.

Paper: Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions, arXiv:2112.05561, 2021.
Official: none; dengbuqi/GAM_Pytorch, CAM.py (GAM), and the GAM_Attention of YOLO forks, whose keys are taken too.
Export: the MLP over the channels of each position is two 1x1 convolutions, so both permutations are gone. Equal up to
    rounding. Fusing folds both BatchNorms.
Deviations: no sigmoid follows the channel gate, although the paper's figure draws one: no implementation has it. CAM.py
    pads by replication (padding_mode="replicate"). The grouped and shuffled 7x7 convolutions of some copies are another
    function.
Limits: without that sigmoid the channel gate makes the map's square of it: inputs of 100 and weights of a trained size
    can leave the range of fp16.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_positive, require_reduced
from attn_deploy.registry import register


@register("gam", aliases=("global_attention_mechanism", "gam_attention"), parameters=102720)
class GAM(nn.Module):
    """Multiplies each position by an MLP of its channels, then by a gate that two 7x7 convolutions compute.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        out_channels: must equal channels, since the gate multiplies the map; None is channels.
        reduction: factor by which both hidden layers are narrower than C.
        padding_mode: of the 7x7 convolutions, "zeros" or "replicate".

    Raises:
        ValueError: if channels // reduction < 1, out_channels differs from channels, or padding_mode is another.
    """

    official_keys = {
        "linear1": "reduce",
        "linear2": "expand",
        "conv1": "spatial.0",
        "norm1": "spatial.1",
        "conv2": "spatial.3",
        "norm2": "spatial.4",
        "channel_attention.0": "reduce",
        "channel_attention.2": "expand",
        "spatial_attention": "spatial",
    }

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        reduction: int = 4,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        require_choice("padding_mode", padding_mode, ("zeros", "replicate"))
        out_channels = channels if out_channels is None else out_channels
        require_positive(out_channels=out_channels)
        if out_channels != channels:
            raise ValueError(
                f"out_channels must equal channels, got channels={channels} and out_channels={out_channels}: the gate "
                "multiplies the map; leave out_channels out."
            )
        self.channels = channels
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=3, padding_mode=padding_mode),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 7, padding=3, padding_mode=padding_mode),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GAM")
        x = x * self.expand(self.reduce(x).relu())
        return x * self.spatial(x).sigmoid()
