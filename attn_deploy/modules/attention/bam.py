"""Bottleneck Attention Module.

Paper: BAM: Bottleneck Attention Module, BMVC 2018, arXiv:1807.06514.
Official: Jongchan/attention-module, MODELS/bam.py, without its two faults: an undefined name in the constructor
    (the class cannot be made as published), and channel pooling with the kernel (H, H), which is the global average
    only for square maps.
Export: the pooled vector is x.mean((2, 3)), both branches stay at their own size and broadcast; the linear layers and
    their BatchNorm1d are 1x1 convolutions and BatchNorm2d on the pooled (N, C, 1, 1) map. Equal up to rounding.
Deviations: the paper's text, External-Attention and pytorch-attention add the two logits (combine="add"); the official
    code multiplies them.
Limits: as with BatchNorm1d, training needs a batch of at least 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_choice, require_positive, require_reduced
from attn_deploy.registry import register


@register("bam", aliases=("bottleneck_attention",), parameters=1173)
class BAM(nn.Module):
    """Amplifies positions and channels by one joint gate, made from a channel and a dilated spatial branch.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which both branches are narrower than C.
        num_layers: hidden layers of the channel branch.
        dilation_conv_num: dilated 3x3 convolutions of the spatial branch.
        dilation: their dilation, and padding.
        combine: "mul" multiplies the logits of the branches (official code), "add" adds them (the paper's text).

    Raises:
        ValueError: if channels // reduction < 1, a count is below 1, or combine is unknown.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        num_layers: int = 1,
        dilation_conv_num: int = 2,
        dilation: int = 4,
        combine: str = "mul",
    ) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        require_positive(num_layers=num_layers, dilation_conv_num=dilation_conv_num, dilation=dilation)
        require_choice("combine", combine, ("mul", "add"))
        self.channels = channels
        self.combine = combine
        names: dict[str, str | None] = {}

        layers: list[nn.Module] = []
        for i in range(num_layers):
            names[f"channel_att.gate_c.gate_c_fc_{i}"] = f"channel.{len(layers)}"
            names[f"channel_att.gate_c.gate_c_bn_{i + 1}"] = f"channel.{len(layers) + 1}"
            layers += [nn.Conv2d(width if i else channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        names["channel_att.gate_c.gate_c_fc_final"] = f"channel.{len(layers)}"
        self.channel = nn.Sequential(*layers, nn.Conv2d(width, channels, 1))

        names["spatial_att.gate_s.gate_s_conv_reduce0"] = "spatial.0"
        names["spatial_att.gate_s.gate_s_bn_reduce0"] = "spatial.1"
        layers = [nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        for i in range(dilation_conv_num):
            names[f"spatial_att.gate_s.gate_s_conv_di_{i}"] = f"spatial.{len(layers)}"
            names[f"spatial_att.gate_s.gate_s_bn_di_{i}"] = f"spatial.{len(layers) + 1}"
            conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        names["spatial_att.gate_s.gate_s_conv_final"] = f"spatial.{len(layers)}"
        self.spatial = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        self.official_keys = names

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "BAM")
        by_channel = self.channel(global_avg_pool(x))
        by_position = self.spatial(x)
        logits = by_channel * by_position if self.combine == "mul" else by_channel + by_position
        return x * (1 + logits.sigmoid())
