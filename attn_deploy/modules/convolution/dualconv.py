"""DualConv: a grouped 3x3 and a full 1x1 convolution of the same map, added.

Paper: DualConv: Dual Convolutional Kernels for Lightweight Deep Neural Networks, IEEE TNNLS 2023, arXiv:2202.07481.
Official: ChipsGuardian/DualConv, kernels/DualConv.py.
Export: nothing needed replacing. With deploy_form="one_conv" fusing makes one dense 3x3 convolution of the two, with zeros
    between the groups and the 1x1 kernels on the centres: fewest kernels for more multiplications, which on a CPU is
    slower. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_convolution
from attn_deploy.registry import register

DEPLOY_FORMS = ("two_convs", "one_conv")


@register(
    "dualconv",
    aliases=("dualconv2d", "dual_kernel_conv"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=13312,
)
class DualConv2d(Fusible, nn.Module):
    """The sum of a grouped 3x3 and a full 1x1 convolution.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        groups: groups of the 3x3 convolution.
        stride: step of both.
        deploy_form: "two_convs" (as they are, fewest multiplications) or "one_conv" (dense 3x3, fewest kernels): what
            fusing makes of it.

    Raises:
        ValueError: if groups does not divide both channel counts, or deploy_form is not one of the choices.
    """

    official_keys = {"gc": "grouped", "pwc": "pointwise"}

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 4, stride: int = 1, deploy_form: str = "two_convs"
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups, stride=stride)
        require_choice("deploy_form", deploy_form, DEPLOY_FORMS)
        self.in_channels, self.deploy_form = in_channels, deploy_form
        self.grouped = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DualConv2d")
        if self.fused is not None:
            return self.fused(x)
        return self.grouped(x) + self.pointwise(x)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One dense 3x3 convolution, if that form is asked for."""
        if self.fused is not None or self.deploy_form == "two_convs":
            return None
        grouped = self.grouped
        ins, outs = self.in_channels // grouped.groups, grouped.out_channels // grouped.groups
        dense = nn.Conv2d(self.in_channels, grouped.out_channels, 3, grouped.stride, padding=1, bias=False).to(
            grouped.weight
        )
        dense.weight.zero_()
        for g in range(grouped.groups):
            rows, columns = slice(g * outs, (g + 1) * outs), slice(g * ins, (g + 1) * ins)
            dense.weight[rows, columns] = grouped.weight[rows]
        dense.weight[:, :, 1, 1] += self.pointwise.weight[:, :, 0, 0]
        self.fused = dense
        del self.grouped, self.pointwise
        return "merged both kernels into one convolution"
