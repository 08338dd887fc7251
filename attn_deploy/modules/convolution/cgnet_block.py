"""CGNet's context guided blocks: local and surrounding context joined, then gated by global context.

Paper: CGNet: A Light-Weight Context Guided Network for Semantic Segmentation, IEEE TIP 2021, arXiv:1811.08201.
Official: wutianyiRosun/CGNet, model/CGNet.py (ContextGuidedBlock, ContextGuidedBlock_Down).
Export: the gate's two Linear layers are 1x1 convolutions on a mean over H and W. Fused, the BatchNorm over the joined
    maps is split between the two depthwise convolutions. Equal up to rounding.
Deviations: the official block adds its input whatever the widths are, and fails in the addition; here add=True with
    other widths is refused when the block is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    global_avg_pool,
    require_divisible,
    require_positive,
    require_reduced,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.registry import register

BN_EPS = 1e-3
_REFERENCE = {"in_channels": 64, "out_channels": 64}
_KEYS = {
    "conv1x1.conv": "enter.0",
    "conv1x1.bn": "enter.1",
    "conv1x1.act": "enter.2",
    "F_loc.conv": "local",
    "F_sur.conv": "surrounding",
    "F_glo.fc.0": "squeeze",
    "F_glo.fc.2": "excite",
}


class _ContextGuided(Fusible, nn.Module):
    """What both blocks share: two depthwise convolutions, the BatchNorm over both of their maps, and the gate."""

    def __init__(self, enter: nn.Sequential, width: int, out_channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        require_positive(dilation=dilation)
        hidden = require_reduced(out_channels, reduction, name="out_channels")
        self.enter = enter
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.surrounding = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(2 * width, eps=BN_EPS)
        self.act = nn.PReLU(2 * width)
        self.squeeze = nn.Conv2d(out_channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, out_channels, 1)

    def _joined(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.act(self.norm(torch.cat((self.local(y), self.surrounding(y)), 1)))

    def _gated(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(global_avg_pool(x)).relu()).sigmoid()

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Split the joint BatchNorm between the two depthwise convolutions."""
        if isinstance(self.norm, nn.Identity):
            return None
        scale, shift = scale_and_shift(self.norm, dtype=torch.float64)
        width = self.local.out_channels
        for conv, part in ((self.local, slice(0, width)), (self.surrounding, slice(width, None))):
            conv.weight.copy_(conv.weight.double() * scale[part].reshape(-1, 1, 1, 1))
            conv.bias = nn.Parameter(shift[part].to(conv.weight.dtype))
        self.norm = nn.Identity()
        return "split the joint BatchNorm between two convolutions"


def _conv_bn_prelu(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels, eps=BN_EPS),
        nn.PReLU(out_channels),
    )


@register(
    "cgnet_block", aliases=("context_guided_block", "context_guided", "cgnet"), reference=_REFERENCE, parameters=3492
)
class ContextGuidedBlock(_ContextGuided):
    """Joins a plain and a dilated depthwise view of a halved map and gates it by global context, around a skip.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out, half of it from either view.
        dilation: distance of the second view's taps.
        reduction: factor by which the gate's hidden layer is narrower than C_out.
        add: whether the input is added.

    Raises:
        ValueError: if C_out is odd, out_channels // reduction < 1, or add is asked for and C_in is not C_out.
    """

    official_keys = {**_KEYS, "bn_prelu.bn": "norm", "bn_prelu.act": "act"}

    def __init__(
        self, in_channels: int, out_channels: int, *, dilation: int = 2, reduction: int = 16, add: bool = True
    ) -> None:
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_divisible("out_channels", out_channels, "the number of views", 2)
        if add and in_channels != out_channels:
            raise ValueError(
                f"add=True needs in_channels == out_channels, got in_channels={in_channels} and "
                f"out_channels={out_channels}: use add=False."
            )
        width = out_channels // 2
        super().__init__(_conv_bn_prelu(in_channels, width, 1, 1), width, out_channels, dilation, reduction)
        self.in_channels, self.add_input = in_channels, add

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ContextGuidedBlock")
        y = self._gated(self._joined(x))
        return x + y if self.add_input else y


@register(
    "cgnet_block_down",
    aliases=("context_guided_block_down", "cgnet_down"),
    reference=_REFERENCE,
    parameters=47364,
)
class ContextGuidedBlockDown(_ContextGuided):
    """Halves the map, joins a plain and a dilated depthwise view of it, narrows them and gates by global context.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / 2), ceil(W / 2)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        dilation: distance of the second view's taps.
        reduction: factor by which the gate's hidden layer is narrower than C_out.

    Raises:
        ValueError: if out_channels // reduction < 1, or a number is below 1.
    """

    official_keys = {**_KEYS, "bn": "norm", "act": "act", "reduce.conv": "narrow"}

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 2, reduction: int = 16) -> None:
        require_positive(in_channels=in_channels, out_channels=out_channels)
        super().__init__(
            _conv_bn_prelu(in_channels, out_channels, 3, 2), out_channels, out_channels, dilation, reduction
        )
        self.in_channels = in_channels
        self.narrow = nn.Conv2d(2 * out_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ContextGuidedBlockDown")
        return self._gated(self.narrow(self._joined(x)))
