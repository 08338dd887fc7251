"""Selective kernel convolution.

Paper: Selective Kernel Networks, CVPR 2019, arXiv:1903.06586.
Official: implus/SKNet, models/sknet50.prototxt (Caffe), layers conv2_1/3x3g32 to conv2_1/B_axpy.
Export: the weights of a branch are a slice of a (N, branches, C, 1, 1) softmax that broadcasts, so there is no stack of
    the branches and no squeeze, which leaves an invalid file with both exporters. Deployed with two branches, the
    softmax is the sigmoid of one difference. Equal up to rounding.
Deviations: PytorchInsight, by the same author, has an ungrouped and a grouped 3x3 convolution, both of dilation 1, and
    no least width (groups=(1, 32), dilations=(1, 1), min_dim=1); timm splits the input channels and does not group;
    External-Attention has four kernels, biases, and neither BatchNorm nor ReLU in the gate; awesome-attention has a
    real 5x5 kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    conv_bn_relu,
    global_avg_pool,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register


@register("sk", aliases=("skconv", "selective_kernel", "sk_unit", "sk_attention"), parameters=8768)
class SelectiveKernelConv(Fusible, nn.Module):
    """Mixes convolutions of several receptive fields by a softmax gate for each channel.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        channels: C.
        groups: groups of the 3x3 convolutions; a tuple gives each branch its own.
        reduction: factor by which the gate's hidden layer is narrower than C.
        min_dim: least width of that hidden layer.
        branches: number of branches.
        dilations: dilation of each branch; None is 1, 2, ..., so that the second sees 5x5.
        stride: stride of the convolutions.

    Raises:
        ValueError: if C is not a multiple of groups, a tuple is not as long as there are branches, branches is below 2,
            or another argument is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | Sequence[int] = 32,
        reduction: int = 16,
        min_dim: int = 32,
        branches: int = 2,
        dilations: Sequence[int] | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, reduction=reduction, min_dim=min_dim, branches=branches, stride=stride)
        if branches < 2:
            raise ValueError(f"branches must be at least 2, got {branches}: with one there is nothing to select.")
        each_groups = (groups,) * branches if isinstance(groups, int) else tuple(groups)
        each_dilation = tuple(range(1, branches + 1)) if dilations is None else tuple(dilations)
        for name, values in (("groups", each_groups), ("dilations", each_dilation)):
            if len(values) != branches:
                raise ValueError(f"{name} must hold one value for each branch, got {values} and branches={branches}.")
            for value in values:
                require_positive(**{name: value})
        for value in each_groups:
            require_divisible("channels", channels, "groups", value)
        width = max(channels // reduction, min_dim)
        self.channels = channels
        self.branch_count = branches
        self.branches = nn.ModuleList(
            conv_bn_relu(channels, channels, 3, stride=stride, dilation=d, groups=g)
            for d, g in zip(each_dilation, each_groups, strict=True)
        )
        self.squeeze = conv_bn_relu(channels, width)
        self.select = nn.Conv2d(width, branches * channels, 1, bias=False)
        self.selects_by_difference = False
        for branch in self.branches:
            nn.init.kaiming_normal_(branch[0].weight)
        for layer in (self.squeeze[0], self.select):
            nn.init.normal_(layer.weight, std=0.01)
        self.official_keys = {"fc1": "squeeze.0", "bn_fc1": "squeeze.1", "fc2": "select"}
        self.official_keys |= {"conv2": "branches.0.0", "bn2": "branches.0.1", "conv2g": "branches.1.0"}
        self.official_keys |= {"bn2g": "branches.1.1", "conv_fc1": "squeeze.0", "conv_fc2": "select"}
        for i in range(branches):
            self.official_keys |= {f"conv_d{i + 1}": f"branches.{i}.0", f"bn_d{i + 1}": f"branches.{i}.1"}

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SelectiveKernelConv")
        maps = [branch(x) for branch in self.branches]
        total = maps[0]
        for other in maps[1:]:
            total = total + other
        logits = self.select(self.squeeze(global_avg_pool(total)))
        if self.selects_by_difference:
            return maps[1] + logits.sigmoid() * (maps[0] - maps[1])
        weights = logits.reshape(x.shape[0], self.branch_count, self.channels, 1, 1).softmax(1)
        y = weights[:, 0] * maps[0]
        for i in range(1, self.branch_count):
            y = y + weights[:, i] * maps[i]
        return y

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """With two branches, softmax is the sigmoid of the difference of the logits: one matrix instead of two."""
        if self.selects_by_difference or self.branch_count != 2:
            return None
        first, second = self.select.weight.chunk(2, 0)
        self.select = nn.Conv2d(first.shape[1], self.channels, 1, bias=False).to(first)
        self.select.weight.copy_(first - second)
        self.selects_by_difference = True
        return "merged the two logits of each channel into their difference"
