"""Diverse Branch Block: a convolution trained as four branches of different depth, merged afterwards.

Paper: Diverse Branch Block: Building a Convolution as an Inception-like Unit, CVPR 2021, arXiv:2103.13425.
Official: DingXiaoH/DiverseBranchBlock, diversebranchblock.py and dbb_transforms.py.
Export: fused, all branches are one convolution, exactly. Unfused, padding with what BatchNorm makes of 0 is a padded 1x1
    convolution before the BatchNorm, which yields 0 there, instead of a border written by slices, which the TorchScript
    exporter fixes to the traced size. Equal.
Deviations: the official identity kernel is no buffer and stays behind on `.half()`; here it follows. Dilation is refused,
    since the official padded branches raise with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    check_channels,
    require_activation,
    require_convolution,
    require_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.ops import activation as activation_layer
from attn_deploy.ops.branch_merging import (
    Kernel,
    average_kernel,
    chained_kernel,
    convolution_of,
    folded_kernel,
    identity_kernel,
    normalised_kernel,
    widened,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.registry import register


class PaddedPointwise(nn.Module):
    """A 1x1 convolution and BatchNorm, padded with what the BatchNorm makes of 0.

    Shape: (N, C_in, H, W) -> (N, C_out, H + 2 * padding, W + 2 * padding); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        padding: pixels on every side.
        groups: groups of channels.
        from_identity: whether the kernel is the identity plus what is learned, which starts at 0.
    """

    identity: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, *, padding: int, groups: int, from_identity: bool = False
    ) -> None:
        super().__init__()
        self.padding, self.groups = padding, groups
        self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.register_buffer("identity", None, persistent=False)
        if from_identity:
            nn.init.zeros_(self.conv.weight)
            self.identity = identity_kernel(in_channels, groups, 1, self.conv.weight).to(self.conv.weight.dtype)

    def weight(self) -> Tensor:
        """The whole kernel of the convolution."""
        return self.conv.weight if self.identity is None else self.conv.weight + self.identity

    def merged(self) -> Kernel:
        """Both layers as one kernel."""
        weight = self.weight().detach().double()
        return normalised_kernel((weight, weight.new_zeros(weight.shape[0])), self.bn)

    def forward(self, x: Tensor) -> Tensor:
        if not self.bn.training:
            return self.bn(F.conv2d(x, self.weight(), None, 1, self.padding, 1, self.groups))
        y = self.bn(F.conv2d(x, self.weight(), groups=self.groups))  # whose statistics are without the border
        if self.padding == 0:
            return y
        outside = scale_and_shift(self.bn, dtype=y.dtype)[1].reshape(-1, 1, 1)
        return F.pad(y - outside, (self.padding,) * 4) + outside


@register(
    "diverse_branch_block",
    aliases=("dbb",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=86784,
)
class DiverseBranchBlock(Fusible, nn.Module):
    """The sum of a k x k, a 1x1, a 1x1 - average and a 1x1 - k x k branch, each with its own BatchNorms.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k.
        stride: step of the window.
        groups: groups of channels; as many as C_out make the block depthwise, without the 1x1 branches.
        internal_channels: width between the 1x1 and the k x k convolution; None is C_in, and twice that if depthwise.
        activation: name of the activation behind the sum, or None.
        single_init: whether the scales of all branches but the first start at 0.
        dilation: 1; the padded branches cannot follow another.

    Raises:
        ValueError: if kernel_size is even, groups does not divide the channels or internal_channels, a depthwise block
            changes the number of channels, activation is unknown, or dilation is not 1.
    """

    official_keys = {
        "dbb_origin": "origin",
        "dbb_1x1": "pointwise",
        "dbb_avg.conv": "average.conv",
        "dbb_avg.bn.bn": "average.bn",
        "dbb_avg.avgbn": "average_bn",
        "dbb_1x1_kxk.idconv1": "inner.conv",
        "dbb_1x1_kxk.conv1": "inner.conv",
        "dbb_1x1_kxk.bn1.bn": "inner.bn",
        "dbb_1x1_kxk.conv2": "outer.conv",
        "dbb_1x1_kxk.bn2": "outer.bn",
        "dbb_reparam": "fused",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        internal_channels: int | None = None,
        activation: str | None = None,
        single_init: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups, stride=stride)
        require_odd(kernel_size=kernel_size)
        require_activation("activation", activation)
        depthwise = groups == out_channels
        if depthwise and in_channels != out_channels:
            raise ValueError(
                f"with groups = out_channels, in_channels must be the same, got in_channels={in_channels} and "
                f"groups=out_channels={out_channels}: the average branch has no convolution to change the channels."
            )
        if dilation != 1:
            raise ValueError(f"dilation must be 1, got {dilation}: the padded branches cannot follow it.")
        internal = (2 * in_channels if depthwise else in_channels) if internal_channels is None else internal_channels
        require_positive(internal_channels=internal)
        require_divisible("internal_channels", internal, "groups", groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding = kernel_size, stride, kernel_size // 2
        self.origin = ConvNormAct(in_channels, out_channels, kernel_size, stride=stride, groups=groups, act=None)
        self.pointwise = self.average = None
        if not depthwise:
            self.pointwise = ConvNormAct(in_channels, out_channels, 1, stride=stride, groups=groups, act=None)
            self.average = PaddedPointwise(in_channels, out_channels, padding=self.padding, groups=groups)
        self.average_bn = nn.BatchNorm2d(out_channels)
        self.inner = PaddedPointwise(
            in_channels, internal, padding=self.padding, groups=groups, from_identity=internal == in_channels
        )
        self.outer = ConvNormAct(internal, out_channels, kernel_size, stride=stride, padding=0, groups=groups, act=None)
        self.act = activation_layer(activation)
        if single_init:
            for norm in (self.average_bn, self.outer.bn, *([] if self.pointwise is None else [self.pointwise.bn])):
                nn.init.zeros_(norm.weight)
        self.fused: nn.Conv2d | None = None

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Merge the branches into one convolution."""
        if self.fused is not None:
            return None
        kernels = [
            folded_kernel(self.origin.conv, self.origin.bn),
            chained_kernel(self.inner.merged(), folded_kernel(self.outer.conv, self.outer.bn), self.groups),
            normalised_kernel(self._averaging_kernel(), self.average_bn),
        ]
        if self.pointwise is not None:
            kernels.append(widened(folded_kernel(self.pointwise.conv, self.pointwise.bn), self.kernel_size))
        self.fused = convolution_of(kernels, self.origin.conv)
        del self.origin, self.pointwise, self.average, self.average_bn, self.inner, self.outer
        return f"merged {len(kernels)} branches into one convolution"

    def _averaging_kernel(self) -> Kernel:
        if self.average is None:
            weight = average_kernel(self.out_channels, self.groups, self.kernel_size, self.average_bn.weight)
            return weight, weight.new_zeros(self.out_channels)
        weight, bias = self.average.merged()
        return weight.expand(-1, -1, self.kernel_size, self.kernel_size) / self.kernel_size**2, bias

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DiverseBranchBlock")
        if self.fused is not None:
            return self.act(self.fused(x))
        y = self.origin(x) + self.outer(self.inner(x)) + self._average(x)
        return self.act(y if self.pointwise is None else y + self.pointwise(x))

    def _average(self, x: Tensor) -> Tensor:
        if self.average is None:
            return self.average_bn(F.avg_pool2d(x, self.kernel_size, self.stride, self.padding))
        return self.average_bn(F.avg_pool2d(self.average(x), self.kernel_size, self.stride))
