"""Attentional feature fusion: the multi-scale channel attention MS-CAM, and AFF and iAFF, which fuse two maps by it.

Paper: Attentional Feature Fusion, WACV 2021, arXiv:2009.14082.
Official: YimianDai/open-aff, model/fusion.py (MXNet) and aff_pytorch/aff_net/fusion.py (MS_CAM, AFF, iAFF).
Export: x * w + y * (1 - w) is written y + w * (x - y), one multiplication fewer; pooling is a mean. Equal up to rounding.
Deviations: iAFF of the official PyTorch port applies the first global branch in its second stage too, so that the weights
    of the second one are dead; the MXNet original, and this module, use the second. share_global=True follows the port,
    for its checkpoints. Most collections carry the port's slip.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_reduced
from attn_deploy.ops.sizes import require_same_size
from attn_deploy.registry import Input, register

_PAIR = (Input("x", ("N", "channels", "H", "W")), Input("residual", ("N", "channels", "H", "W")))


def _branch(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, channels, 1),
        nn.BatchNorm2d(channels),
    )


def _renamed(official: str, ours: str) -> dict[str, str]:
    """The official branches over pooled features begin with the pooling, so their layers are numbered one higher."""
    return {f"{official}.{i + 1}": f"{ours}.{i}" for i in (0, 1, 3, 4)}


def _gate(x: Tensor, local_branch: nn.Module, global_branch: nn.Module) -> Tensor:
    return (local_branch(x) + global_branch(global_avg_pool(x))).sigmoid()


@register("ms_cam", parameters=4576, family="attention")
class MSCAM(nn.Module):
    """Gates a map by the sum of a point-wise and a globally pooled channel attention.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the hidden layer of each branch is narrower than C.

    Raises:
        ValueError: if channels // reduction < 1.
    """

    official_keys = _renamed("global_att", "global_att")

    def __init__(self, channels: int = 64, *, reduction: int = 4) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels = channels
        self.local_att = _branch(channels, width)
        self.global_att = _branch(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "MSCAM")
        return x * _gate(x, self.local_att, self.global_att)


@register("aff", parameters=4576, inputs=_PAIR)
class AttentionalFeatureFusion(nn.Module):
    """Fuses two maps by a soft selection that MS-CAM computes from their sum, and doubles the result.

    Shape: two maps (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the hidden layer of each branch is narrower than C.

    Raises:
        ValueError: if channels // reduction < 1, or the two maps differ in size.
    """

    official_keys = _renamed("global_att", "global_att")

    def __init__(self, channels: int = 64, *, reduction: int = 4) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels = channels
        self.local_att = _branch(channels, width)
        self.global_att = _branch(channels, width)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        check_channels(x, self.channels, "AttentionalFeatureFusion")
        check_channels(residual, self.channels, "AttentionalFeatureFusion")
        require_same_size("AttentionalFeatureFusion", x=x, residual=residual)
        gate = _gate(x + residual, self.local_att, self.global_att)
        return 2 * (residual + gate * (x - residual))


@register("iaff", parameters=9152, inputs=_PAIR)
class IterativeAttentionalFeatureFusion(nn.Module):
    """Fuses two maps by a soft selection that is computed from a first such fusion of them.

    Shape: two maps (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        reduction: factor by which the hidden layer of each branch is narrower than C.
        share_global: use the global branch of the first stage in the second, as the official PyTorch port does.

    Raises:
        ValueError: if channels // reduction < 1, or the two maps differ in size.
    """

    official_keys = {**_renamed("global_att", "global_att"), **_renamed("global_att2", "global_att2")}

    def __init__(self, channels: int = 64, *, reduction: int = 4, share_global: bool = False) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        self.channels = channels
        self.local_att = _branch(channels, width)
        self.global_att = _branch(channels, width)
        self.local_att2 = _branch(channels, width)
        self.global_att2 = None if share_global else _branch(channels, width)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the second global branch, which nothing reads, when the first one is shared."""
        if self.global_att2 is not None:
            return state
        return {k: v for k, v in state.items() if not k.startswith("global_att2.")}

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        check_channels(x, self.channels, "IterativeAttentionalFeatureFusion")
        check_channels(residual, self.channels, "IterativeAttentionalFeatureFusion")
        require_same_size("IterativeAttentionalFeatureFusion", x=x, residual=residual)
        difference = x - residual
        first = residual + difference * _gate(x + residual, self.local_att, self.global_att)
        second_global = self.global_att if self.global_att2 is None else self.global_att2
        return residual + difference * _gate(first, self.local_att2, second_global)
