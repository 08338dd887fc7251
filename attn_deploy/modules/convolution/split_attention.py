"""Split-Attention convolution of ResNeSt.

Paper: ResNeSt: Split-Attention Networks, CVPRW 2022, arXiv:2004.08955.
Official: zhanghang1989/ResNeSt, resnest/torch/models/splat.py (SplAtConv2d, rSoftMax).
Export: the splits are slices of the channel axis, and the pooled vector is the sum of the splits' means instead of the
    mean of their summed map, which is then never written. Equal up to rounding.
Deviations: timm's SplitAttn rounds the attention width to make_divisible(in_channels * radix / 4, 8, at least 32)
    instead of max(in_channels * radix // reduction, 32), and defaults to padding kernel_size // 2 and no bias.
Limits: rectified convolution and DropBlock are not offered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    global_avg_pool,
    require_divisible,
    require_not_negative,
    require_positive,
)
from attn_deploy.registry import register


@register(
    "splat_conv2d",
    aliases=("split_attention", "splat", "resnest"),
    reference={"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "bias": False, "norm": True},
    parameters=43488,
)
class SplitAttentionConv2d(Fusible, nn.Module):
    """Convolves into several splits and mixes them by a softmax over splits, computed from their pooled sum.

    Shape: (N, in_channels, H, W) -> (N, out_channels, Ho, Wo) as for a convolution; dynamic N, H, W.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution; ResNeSt passes the dilation.
        dilation: of the convolution.
        groups: cardinality; each group attends for itself.
        bias: whether the convolution has a bias; ResNeSt passes False.
        radix: splits to mix; 1 gives a sigmoid gate.
        reduction: the attention's width is in_channels * radix // reduction, at least 32.
        norm: whether BatchNorm follows the convolution and the first attention layer; ResNeSt passes True.

    Raises:
        ValueError: if in_channels is not a multiple of groups * radix, or out_channels or the attention's width of
            groups, or radix is less than 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        radix: int = 2,
        reduction: int = 4,
        norm: bool = False,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, groups=groups, radix=radix)
        require_positive(kernel_size=kernel_size, stride=stride, dilation=dilation, reduction=reduction)
        require_not_negative(padding=padding)
        require_divisible("in_channels", in_channels, "groups * radix", groups * radix)
        require_divisible("out_channels", out_channels, "groups", groups)
        width = max(in_channels * radix // reduction, 32)
        require_divisible("the attention's width max(in_channels * radix // reduction, 32)", width, "groups", groups)
        self.in_channels, self.out_channels, self.groups, self.radix = in_channels, out_channels, groups, radix
        self.conv = nn.Conv2d(
            in_channels,
            out_channels * radix,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups * radix,
            bias=bias,
        )
        self.bn0 = nn.BatchNorm2d(out_channels * radix) if norm else nn.Identity()
        self.fc1 = nn.Conv2d(out_channels, width, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.fc2 = nn.Conv2d(width, out_channels * radix, 1, groups=groups)
        self.pairwise = False

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SplitAttentionConv2d")
        x = self.bn0(self.conv(x)).relu()
        splits = self._split(x)
        pooled = sum(self._split(global_avg_pool(x)))
        logits = self.fc2(self.bn1(self.fc1(pooled)).relu())
        if self.pairwise:
            return splits[1] + logits.sigmoid() * (splits[0] - splits[1])
        if self.radix == 1:
            return x * logits.sigmoid()
        # fc2 puts the groups outermost, the convolution the splits: swap them after the softmax.
        grouped = logits.reshape(-1, self.groups, self.radix, self.out_channels // self.groups)
        gates = grouped.softmax(2).transpose(1, 2).reshape(-1, self.radix * self.out_channels, 1, 1)
        return sum(split * gate for split, gate in zip(splits, self._split(gates), strict=True))

    def _split(self, x: Tensor) -> list[Tensor]:
        return [x[:, i * self.out_channels : (i + 1) * self.out_channels] for i in range(self.radix)]

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold both BatchNorms; with two splits, the softmax becomes the sigmoid of the logits' difference."""
        done = []
        if isinstance(self.bn0, nn.BatchNorm2d):
            self.conv, self.bn0 = fold_bn_into_conv(self.conv, self.bn0), nn.Identity()
            self.fc1, self.bn1 = fold_bn_into_conv(self.fc1, self.bn1), nn.Identity()
            done.append("folded 2 BatchNorm")
        if self.radix == 2 and not self.pairwise:
            per_group = self.out_channels // self.groups
            fc2 = nn.Conv2d(self.fc2.in_channels, self.out_channels, 1, groups=self.groups)
            weight = self.fc2.weight.reshape(self.groups, 2, per_group, -1)
            bias = self.fc2.bias.reshape(self.groups, 2, per_group)
            fc2.weight.copy_((weight[:, 0] - weight[:, 1]).reshape(fc2.weight.shape))
            fc2.bias.copy_((bias[:, 0] - bias[:, 1]).reshape(-1))
            self.fc2, self.pairwise = fc2.to(weight), True
            done.append("softmax of two splits as a sigmoid of their difference")
        return ", ".join(done) or None
