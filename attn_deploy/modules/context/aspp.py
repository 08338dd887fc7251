"""Atrous Spatial Pyramid Pooling (DeepLabV3).

Paper: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv:1706.05587.
Official: pytorch/vision, torchvision/models/segmentation/deeplabv3.py (ASPP), the PyTorch form of tensorflow/models,
    research/deeplab/model.py.
Export: the pooled branch is a mean and is spread by expand; resizing a 1x1 map, as the official code does, gives the
    same constant. Equal up to rounding. Fusing folds every BatchNorm.
Deviations: the TensorFlow original concatenates the pooled branch first and drops out 0.1; collections ship a single
    separable branch without pooling under this name.
Limits: training needs a batch of at least 2, as BatchNorm sees one value per channel of each image in the pooled branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, conv_bn_relu, global_avg_pool, is_traced, require_positive
from attn_deploy.registry import register


@register(
    "aspp",
    aliases=("atrous_spatial_pyramid_pooling",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=140032,
)
class ASPP(nn.Module):
    """Looks at the map through several dilations and its global average, and mixes what they see.

    Shape: (N, C, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of each branch and of the output.
        atrous_rates: dilation of each 3x3 branch: (12, 24, 36) at output stride 8, (6, 12, 18) at 16.
        dropout: share of values dropped from the output when training.

    Raises:
        ValueError: if a channel count is below 1, atrous_rates is empty or holds a rate below 1, dropout is outside
            [0, 1], or a batch of 1 is given when training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        *,
        atrous_rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        if not atrous_rates:
            raise ValueError(f"atrous_rates must hold at least 1 rate, got {atrous_rates!r}: use (12, 24, 36).")
        require_positive(**{f"atrous_rates[{i}]": rate for i, rate in enumerate(atrous_rates)})
        self.in_channels = in_channels
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, out_channels)])
        self.branches.extend(conv_bn_relu(in_channels, out_channels, 3, dilation=rate) for rate in atrous_rates)
        self.pooled = conv_bn_relu(in_channels, out_channels)
        self.project = conv_bn_relu((2 + len(atrous_rates)) * out_channels, out_channels).append(nn.Dropout(dropout))

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        pool = len(self.branches)
        converted = {}
        for key, value in state.items():
            group, _, rest = key.partition(".")
            index, _, rest = rest.partition(".")
            if group != "convs":
                converted[key] = value
            elif index == str(pool):  # layer 0 of this branch is the pooling itself
                layer, _, name = rest.partition(".")
                converted[f"pooled.{int(layer) - 1}.{name}"] = value
            else:
                converted[f"branches.{index}.{rest}"] = value
        return converted

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ASPP")
        if self.training and not is_traced() and x.shape[0] == 1:
            raise ValueError(
                "ASPP: the pooled branch has one value per channel and image, so that BatchNorm cannot be trained with "
                "a batch of 1: use a batch of at least 2, or eval()."
            )
        pooled = self.pooled(global_avg_pool(x)).expand(-1, -1, x.shape[2], x.shape[3])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))
