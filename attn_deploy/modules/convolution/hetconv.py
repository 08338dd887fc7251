"""HetConv: filters whose kernels are 3x3 on some input channels and 1x1 on the others.

Paper: HetConv: Heterogeneous Kernel-Based Convolutions for Deep CNNs, CVPR 2019, arXiv:1903.04120.
Official: ChipsGuardian/DualConv, kernels/HetConv.py, which follows the paper; what the paper's authors publish
    (irvinxav/Efficient-HetConv-...) is the zoo's dualconv.
Export: fused, a grouped 3x3 on shuffled channels beside a 1x1; with deploy_form="one_conv", one dense 3x3 convolution
    with zeros around the 1x1 kernels: fewest kernels for p times the multiplications, which on a CPU is slower. The
    official code, p pairs of convolutions on strided slices, is 34 nodes. Equal up to rounding.
Deviations: an out_channels that p does not divide is refused; the official code drops the channels that are left over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, centred_kernel, check_channels, require_choice, require_divisible, require_positive
from attn_deploy.registry import register

DEPLOY_FORMS = ("two_convs", "one_conv")


@register(
    "hetconv",
    aliases=("hetconv2d", "heterogeneous_conv"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=12288,
)
class HetConv2d(Fusible, nn.Module):
    """A convolution whose kernels are 3x3 on every p-th input channel and 1x1 on the rest, shifted from filter to filter.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; filter j * p + i has its 3x3 kernels on the input channels i, i + p, i + 2p, ...
        p: one in how many kernels is 3x3.
        stride: step of the window.
        deploy_form: "two_convs" (grouped 3x3 and 1x1, fewest multiplications) or "one_conv" (dense 3x3, fewest
            kernels): what fusing makes of it.

    Raises:
        ValueError: if p does not divide both channel counts or is below 2, or deploy_form is not one of the choices.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, p: int = 4, stride: int = 1, deploy_form: str = "two_convs"
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, p=p, stride=stride)
        require_divisible("in_channels", in_channels, "p", p)
        require_divisible("out_channels", out_channels, "p", p)
        require_choice("deploy_form", deploy_form, DEPLOY_FORMS)
        if p < 2:
            raise ValueError(f"p must be at least 2, got {p}: with p=1 every kernel is 3x3, a plain convolution.")
        self.in_channels, self.p, self.stride, self.deploy_form = in_channels, p, stride, deploy_form
        self.grouped = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=p, bias=False)
        self.pointwise: nn.Parameter | None = nn.Parameter(
            torch.empty(p, out_channels // p, in_channels - in_channels // p)
        )
        bound = self.pointwise.shape[2] ** -0.5
        nn.init.uniform_(self.pointwise, -bound, bound)
        self.full: nn.Conv2d | None = None
        # Of each group, where each input channel's 1x1 weight lies; the last place holds the zero of the 3x3 channels.
        places = torch.full((p, in_channels), in_channels - in_channels // p, dtype=torch.long)
        for i in range(p):
            others = [c for c in range(in_channels) if c % p != i]
            places[i, others] = torch.arange(len(others))
        self.register_buffer("places", places, persistent=False)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join the official pairs of convolutions, ``filters.I.0`` of 3x3 and ``filters.I.1`` of 1x1."""
        pairs = range(self.p)
        return {
            "grouped.weight": torch.cat([state[f"filters.{i}.0.weight"] for i in pairs]),
            "pointwise": torch.stack([state[f"filters.{i}.1.weight"].flatten(1) for i in pairs]),
        }

    def _pointwise_kernel(self) -> Tensor:
        """The 1x1 weights as (C_out, C_in, 1, 1), with zeros where the kernel is 3x3."""
        weight = F.pad(self.pointwise, (0, 1))
        full = weight.gather(2, self.places.unsqueeze(1).expand(-1, weight.shape[1], -1))
        return full.transpose(0, 1).reshape(self.grouped.out_channels, self.in_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "HetConv2d")
        if self.full is not None and self.deploy_form == "one_conv":
            return self.full(x)
        by_group = _interchanged(x, self.in_channels // self.p, self.p)
        y = _interchanged(self.grouped(by_group), self.p, self.grouped.out_channels // self.p)
        if self.full is not None:
            return y + self.full(x)
        return y + F.conv2d(x, self._pointwise_kernel(), stride=self.stride)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One dense 3x3 convolution, or the 1x1 weights laid out once."""
        if self.full is not None:
            return None
        kernel = self._pointwise_kernel()
        outs = kernel.shape[0]
        size = 1
        if self.deploy_form == "one_conv":
            size = 3
            kernel = centred_kernel(kernel, 3)
            per_group = self.grouped.weight.reshape(self.p, outs // self.p, self.in_channels // self.p, 3, 3)
            for i in range(self.p):
                kernel[i :: self.p, i :: self.p] += per_group[i]
        self.full = nn.Conv2d(self.in_channels, outs, size, self.stride, padding=size // 2, bias=False)
        self.full.weight = nn.Parameter(kernel.clone())
        self.pointwise = None
        if self.deploy_form == "two_convs":
            return "laid out the 1x1 kernels as one convolution"
        del self.grouped
        return "merged all kernels into one convolution"


def _interchanged(x: Tensor, rows: int, columns: int) -> Tensor:
    """Channel r * columns + c moves to c * rows + r."""
    grid = x.reshape(x.shape[0], rows, columns, x.shape[2], x.shape[3])
    return grid.transpose(1, 2).reshape(x.shape[0], rows * columns, x.shape[2], x.shape[3])
