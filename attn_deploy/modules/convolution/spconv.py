"""SPConv: split based convolution.

Paper: Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution, IJCAI 2020, arXiv:2006.12085.
Official: qiulinzhang/SPConv.pytorch, code/resnet_sp.py, SPConv_3x3.
Export: the softmax over two pooled vectors is a sigmoid of their difference, without stack and squeeze. Fused, both
    BatchNorms are gone, and the two convolutions of the representative channels become one dense 3x3 if asked. Equal up
    to rounding.
Deviations: popular copies lose the batch axis at batch 1 (squeeze without an axis) and raise with stride 2.
Limits: stride 2 needs even H and W, since the convolution rounds up where the pooling rounds down.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    global_avg_pool,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.registry import register

_STRIDED = {"H": "stride", "W": "stride"}


@register(
    "spconv_s2",
    reference={"in_channels": 64, "out_channels": 64, "stride": 2},
    parameters=13632,
    multiple=_STRIDED,
    summary="Split based convolution with stride 2, for maps of even height and width.",
)
@register(
    "spconv",
    aliases=("split_conv", "spconv_3x3"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=13632,
    multiple=_STRIDED,
)
class SPConv2d(Fusible, nn.Module):
    """Convolves a representative part of the channels by 3x3, the redundant rest by 1x1, and blends both by attention.

    Shape: (N, C_in, H, W) -> (N, C_out, H / stride, W / stride); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        stride: 1 or 2.
        ratio: share of the channels that is representative.
        deploy_form: "two_convs" (grouped 3x3 and 1x1, fewest multiplications) or "one_conv" (dense 3x3, fewest
            kernels): what fusing makes of the representative part.

    Raises:
        ValueError: if stride is not 1 or 2, the representative channels or C_out are odd, a part would have no
            channels, deploy_form is not one of the choices, or, at the call, stride is 2 and H or W odd.
    """

    official_keys = {"gwc": "grouped", "pwc": "pointwise", "conv1x1": "redundant"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        ratio: float = 0.5,
        deploy_form: str = "two_convs",
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_choice("stride", stride, (1, 2))
        require_choice("deploy_form", deploy_form, ("two_convs", "one_conv"))
        representative = int(in_channels * ratio)
        if representative < 2 or representative >= in_channels:
            raise ValueError(
                f"int(in_channels * ratio) must be at least 2 and below in_channels, got in_channels={in_channels} and "
                f"ratio={ratio}: use a ratio near 0.5 and at least 4 channels."
            )
        require_divisible("int(in_channels * ratio)", representative, "the group count", 2)
        require_divisible("out_channels", out_channels, "the group count", 2)
        self.in_channels, self.representative, self.stride = in_channels, representative, stride
        self.deploy_form = deploy_form
        self.grouped = nn.Conv2d(representative, out_channels, 3, stride, padding=1, groups=2, bias=False)
        self.pointwise: nn.Conv2d | None = nn.Conv2d(representative, out_channels, 1, bias=False)
        self.redundant = nn.Conv2d(in_channels - representative, out_channels, 1)
        self.bn1: nn.Module = nn.BatchNorm2d(out_channels)
        self.bn2: nn.Module = nn.BatchNorm2d(out_channels)

    def fuse_(self) -> str | None:
        """Fold both BatchNorms; bn1 scales two convolutions and shifts the first. Merge those two if asked."""
        if isinstance(self.bn1, nn.Identity):
            return None
        pointwise = fold_bn_into_conv(self.pointwise, self.bn1)
        pointwise.bias = None
        self.grouped = fold_bn_into_conv(self.grouped, self.bn1)
        self.redundant = fold_bn_into_conv(self.redundant, self.bn2)
        self.pointwise, self.bn1, self.bn2 = pointwise, nn.Identity(), nn.Identity()
        if self.deploy_form == "two_convs":
            return "folded two BatchNorms"
        self.grouped, self.pointwise = self._dense(), None
        return "folded two BatchNorms, merged two convolutions"

    @torch.no_grad()
    def _dense(self) -> nn.Conv2d:
        grouped, pointwise = self.grouped, self.pointwise
        dense = nn.Conv2d(self.representative, grouped.out_channels, 3, self.stride, padding=1)
        ins, outs = self.representative // 2, grouped.out_channels // 2
        kernel = torch.zeros_like(dense.weight)
        kernel[:outs, :ins], kernel[outs:, ins:] = grouped.weight[:outs], grouped.weight[outs:]
        if self.stride == 1:
            kernel[:, :, 1, 1] += pointwise.weight[:, :, 0, 0]
        else:  # the mean over 2x2 are the four taps from the centre on
            kernel[:, :, 1:, 1:] += pointwise.weight / 4
        dense.weight, dense.bias = nn.Parameter(kernel), nn.Parameter(grouped.bias.clone())
        return dense

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SPConv2d")
        self._check_even(x)
        strong, weak = x[:, : self.representative], x[:, self.representative :]
        a = self.grouped(strong)
        if self.stride == 2:
            weak = F.avg_pool2d(weak, 2)
        if self.pointwise is not None:
            a = a + self.pointwise(F.avg_pool2d(strong, 2) if self.stride == 2 else strong)
        a = self.bn1(a)
        b = self.bn2(self.redundant(weak))
        gate = (global_avg_pool(a) - global_avg_pool(b)).sigmoid()
        return b + (a - b) * gate

    def _check_even(self, x: Tensor) -> None:
        if self.stride == 1 or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"SPConv2d: stride=2 needs even H and W, got an input of {x.shape[2]}x{x.shape[3]}: pad it to "
                f"{x.shape[2] + x.shape[2] % 2}x{x.shape[3] + x.shape[3] % 2}, or use stride=1."
            )
