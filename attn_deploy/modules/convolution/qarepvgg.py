"""QARepVGG block: RepVGG's branches with BatchNorms placed so that the merged kernel quantises well.

Paper: Make RepVGG Greater Again: A Quantization-aware Approach, AAAI 2024, arXiv:2212.01593.
Official: meituan/YOLOv6, yolov6/layers/common.py (QARepVGGBlock, QARepVGGBlockV2).
Export: fused, all branches and both BatchNorms are one 3x3 convolution, exactly.
Deviations: the official deployed form keeps the outer BatchNorm beside the merged convolution, and making it raises unless
    the inner one was folded first; here both are folded.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.modules.convolution.repvgg import check_block_arguments
from attn_deploy.ops import ConvNormAct, Fusible, check_channels, require_choice
from attn_deploy.ops.branch_merging import (
    average_kernel,
    convolution_of,
    folded_kernel,
    identity_kernel,
    normalised_kernel,
    widened,
)
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}


@register(
    "qarepvgg_block_v2",
    reference={**_REFERENCE, "version": 2},
    parameters=41216,
    summary="Quantisation-aware RepVGG block with a further branch that averages 3x3 windows.",
)
@register(
    "qarepvgg_block",
    aliases=("qa_repvgg",),
    reference=_REFERENCE,
    parameters=41216,
)
class QARepVGGBlock(Fusible, nn.Module):
    """The ReLU of one BatchNorm over a normalised 3x3, a bare 1x1 and an identity branch.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: 3, the only one that the block is defined for.
        stride: step of the window; above 1, or with C_out other than C_in, only the convolutions are left.
        groups: groups of channels.
        version: 2 adds the average over 3x3 windows to the identity branch.
        dilation: 1, the only one for which training and deployed form agree.
        padding_mode: "zeros", likewise.

    Raises:
        ValueError: if kernel_size is not 3, groups does not divide the channels, version is neither 1 nor 2, or dilation
            or padding_mode is given.
    """

    official_keys = {"rbr_dense": "dense", "rbr_1x1": "pointwise", "bn": "norm", "rbr_reparam": "fused"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        version: int = 1,
        dilation: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        check_block_arguments(in_channels, out_channels, kernel_size, stride, groups, dilation, padding_mode)
        require_choice("version", version, (1, 2))
        self.in_channels, self.groups = in_channels, groups
        self.keeps_input = in_channels == out_channels and stride == 1
        self.averages = self.keeps_input and version == 2
        self.dense = ConvNormAct(in_channels, out_channels, 3, stride=stride, groups=groups, act=None)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.fused: nn.Conv2d | None = None

    def fuse_(self) -> str | None:
        """Merge the branches and the outer BatchNorm into one 3x3 convolution."""
        if self.fused is not None:
            return None
        weight, bias = folded_kernel(self.dense.conv, self.dense.bn)
        weight = weight + widened(folded_kernel(self.pointwise), 3)[0]
        if self.keeps_input:
            weight = weight + identity_kernel(self.in_channels, self.groups, 3, weight)
        if self.averages:
            weight = weight + average_kernel(self.in_channels, self.groups, 3, weight)
        self.fused = convolution_of([normalised_kernel((weight, bias), self.norm)], self.dense.conv)
        del self.dense, self.pointwise, self.norm
        return f"merged {2 + self.keeps_input + self.averages} branches into one convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "QARepVGGBlock")
        if self.fused is not None:
            return self.fused(x).relu()
        y = self.dense(x) + self.pointwise(x)
        if self.keeps_input:
            y = y + x
        if self.averages:
            y = y + F.avg_pool2d(x, 3, 1, 1)
        return self.norm(y).relu()
