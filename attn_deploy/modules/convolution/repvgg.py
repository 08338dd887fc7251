"""RepVGG block: a 3x3, a 1x1 and an identity branch in training, one 3x3 convolution afterwards.

Paper: RepVGG: Making VGG-style ConvNets Great Again, CVPR 2021, arXiv:2101.03697.
Official: DingXiaoH/RepVGG, repvgg.py (RepVGGBlock) and repvggplus.py (RepVGGplusBlock, which is post_se=True).
Export: fused, the three branches are one convolution, exactly. The squeeze-and-excitation pools by a mean over H and W.
Deviations: the official squeeze-and-excitation pools a window of W x W, which raises for H < W and ignores rows, or mixes
    samples up, for H > W; here it is the global mean that it stands for. Official dilation and padding_mode reach the
    deployed convolution only, so that deploying changes the function: both are refused.
Limits: branches that cancel each other leave a merged kernel that is hard to quantise; qarepvgg_block is made for that.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.modules.attention.squeeze_excite import SqueezeExcitation
from attn_deploy.ops import ConvNormAct, Fusible, check_channels, require_choice, require_convolution
from attn_deploy.ops.branch_merging import merged_with_identity
from attn_deploy.registry import register

PRE_REDUCTION, POST_REDUCTION = 16, 4


@register(
    "repvgg_block",
    aliases=("repvgg", "repvggplus_block"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=41344,
)
class RepVGGBlock(Fusible, nn.Module):
    """The ReLU of a sum of 3x3, 1x1 and identity branches, each with its own BatchNorm.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: 3, the only one that the block is defined for.
        stride: step of the window; above 1, or with C_out other than C_in, there is no identity branch.
        groups: groups of channels.
        use_se: squeeze-and-excitation before the ReLU, of C_out // 16 hidden channels: True or "pre"; "post" is post_se.
        post_se: squeeze-and-excitation after the ReLU, of C_out // 4 hidden channels, as in RepVGGplus.
        dilation: 1, the only one for which training and deployed form agree.
        padding_mode: "zeros", likewise.

    Raises:
        ValueError: if kernel_size is not 3, groups does not divide the channels, the squeeze-and-excitation would have
            no hidden channel, or dilation or padding_mode is given.
    """

    official_keys = {
        "rbr_dense": "dense",
        "rbr_1x1": "pointwise",
        "rbr_identity": "identity",
        "rbr_reparam": "fused",
        "se.down": "se.reduce",
        "se.up": "se.expand",
        "post_se.down": "post_se.reduce",
        "post_se.up": "post_se.expand",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        use_se: bool | str = False,
        post_se: bool = False,
        dilation: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        check_block_arguments(in_channels, out_channels, kernel_size, stride, groups, dilation, padding_mode)
        require_choice("use_se", use_se, (False, True, "pre", "post"))
        post_se = post_se or use_se == "post"
        self.in_channels, self.groups = in_channels, groups
        self.dense = ConvNormAct(in_channels, out_channels, 3, stride=stride, groups=groups, act=None)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, stride=stride, groups=groups, act=None)
        self.identity = nn.BatchNorm2d(out_channels) if in_channels == out_channels and stride == 1 else None
        self.se = _gate(out_channels, PRE_REDUCTION) if use_se in (True, "pre") else nn.Identity()
        self.post_se = _gate(out_channels, POST_REDUCTION) if post_se else nn.Identity()
        self.fused: nn.Conv2d | None = None

    def fuse_(self) -> str | None:
        """Merge the branches into one 3x3 convolution."""
        if self.fused is not None:
            return None
        dense, pointwise = self.dense, self.pointwise
        self.fused, words = merged_with_identity(dense.conv, dense.bn, pointwise.conv, pointwise.bn, self.identity)
        del self.dense, self.pointwise, self.identity
        return words

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RepVGGBlock")
        return self.post_se(self.se(self._branches(x)).relu())

    def _branches(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(x)
        y = self.dense(x) + self.pointwise(x)
        return y if self.identity is None else y + self.identity(x)


def check_block_arguments(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, dilation: int, padding_mode: str
) -> None:
    """The arguments that RepVGG's block and its quantisation-aware successor share.

    Raises:
        ValueError: if one of them cannot be used.
    """
    require_convolution(in_channels, out_channels, groups, stride=stride)
    if kernel_size != 3:
        raise ValueError(f"kernel_size must be 3, got {kernel_size}: the block is a 3x3 and a 1x1 branch.")
    if dilation != 1:
        raise ValueError(
            f"dilation must be 1, got {dilation}: the official branches ignore it and the official deployed convolution "
            "does not, so no weights exist for it."
        )
    if padding_mode != "zeros":
        raise ValueError(
            f"padding_mode must be 'zeros', got {padding_mode!r}: the official branches ignore it and the official "
            "deployed convolution does not."
        )


def _gate(channels: int, reduction: int) -> SqueezeExcitation:
    if channels < reduction:
        raise ValueError(
            f"the squeeze-and-excitation has out_channels // {reduction} hidden channels, got out_channels={channels}: "
            f"use out_channels of at least {reduction}, or leave it out."
        )
    return SqueezeExcitation(channels, reduction=reduction)
