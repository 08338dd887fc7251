"""MobileOne block: several copies of a convolution, a 1x1 and an identity branch, one convolution afterwards.

Paper: MobileOne: An Improved One Millisecond Mobile Backbone, CVPR 2023, arXiv:2206.04040.
Official: apple/ml-mobileone, mobileone.py (MobileOneBlock), the same in apple/ml-fastvit.
Export: fused, all branches are one convolution, exactly. The squeeze-and-excitation pools by a mean over H and W; the
    official one pools a window of the traced size, which one exporter refuses and the other fixes H and W for.
Deviations: the padding is kernel_size // 2, as the networks give it, where the official class has 0 by default. Official
    dilation reaches the deployed convolution only, so that deploying changes the function: it is refused.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.modules.attention.squeeze_excite import SqueezeExcitation
from attn_deploy.ops import ConvNormAct, Fusible, check_channels, require_convolution, require_odd
from attn_deploy.ops.branch_merging import convolution_of, folded_kernel, identity_bn_kernel, widened
from attn_deploy.registry import register

SE_REDUCTION = 16


@register(
    "mobileone_block",
    aliases=("mobileone",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=41344,
)
class MobileOneBlock(Fusible, nn.Module):
    """The ReLU of a sum of equal k x k branches, a 1x1 and an identity branch, each with its own BatchNorm.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k; at 1 there is no further 1x1 branch.
        stride: step of the window; above 1, or with C_out other than C_in, there is no identity branch.
        groups: groups of channels; a MobileOne unit is a depthwise block, then one of kernel_size=1.
        num_conv_branches: number of k x k branches.
        use_se: squeeze-and-excitation before the ReLU, of C_out // 16 hidden channels.
        dilation: 1, the only one for which training and deployed form agree.

    Raises:
        ValueError: if kernel_size is even, groups does not divide the channels, the squeeze-and-excitation would have no
            hidden channel, or dilation is not 1.
    """

    official_keys = {
        "rbr_skip": "skip",
        "rbr_conv": "branches",
        "rbr_scale": "scale",
        "reparam_conv": "fused",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        num_conv_branches: int = 1,
        use_se: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups, stride=stride, num_conv_branches=num_conv_branches)
        require_odd(kernel_size=kernel_size)
        if dilation != 1:
            raise ValueError(
                f"dilation must be 1, got {dilation}: the official branches ignore it and the official deployed "
                "convolution does not, so no weights exist for it."
            )
        if use_se and out_channels < SE_REDUCTION:
            raise ValueError(
                f"the squeeze-and-excitation has out_channels // {SE_REDUCTION} hidden channels, got "
                f"out_channels={out_channels}: use out_channels of at least {SE_REDUCTION}, or leave use_se out."
            )
        self.in_channels, self.kernel_size, self.groups = in_channels, kernel_size, groups
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, out_channels, kernel_size, stride=stride, groups=groups, act=None)
            for _ in range(num_conv_branches)
        )
        self.scale = self.skip = None
        if kernel_size > 1:
            self.scale = ConvNormAct(in_channels, out_channels, 1, stride=stride, groups=groups, act=None)
        if in_channels == out_channels and stride == 1:
            self.skip = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels, reduction=SE_REDUCTION) if use_se else nn.Identity()
        self.fused: nn.Conv2d | None = None

    def fuse_(self) -> str | None:
        """Merge the branches into one convolution."""
        if self.fused is not None:
            return None
        kernels = [folded_kernel(branch.conv, branch.bn) for branch in self.branches]
        if self.scale is not None:
            kernels.append(widened(folded_kernel(self.scale.conv, self.scale.bn), self.kernel_size))
        if self.skip is not None:
            kernels.append(identity_bn_kernel(self.skip, self.groups, self.kernel_size))
        self.fused = convolution_of(kernels, self.branches[0].conv)
        del self.branches, self.scale, self.skip
        return f"merged {len(kernels)} branches into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "MobileOneBlock")
        return self.se(self._branches(x)).relu()

    def _branches(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(x)
        sums = [branch(x) for branch in (*self.branches, self.scale, self.skip) if branch is not None]
        y = sums[0]
        for other in sums[1:]:
            y = y + other
        return y
