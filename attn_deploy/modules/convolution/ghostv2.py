"""GhostNetV2: the Ghost module gated by decoupled fully connected attention, and its bottleneck.

Paper: GhostNetV2: Enhance Cheap Operation with Long-Range Attention, NeurIPS 2022, arXiv:2211.12905.
Official: huawei-noah/Efficient-AI-Backbones, ghostnetv2_pytorch/model/ghostnetv2_torch.py (GhostModuleV2 in mode 'attn',
    GhostBottleneckV2).
Export: with a stride of more than 2 the gate is enlarged by an integer Gather, not by Resize, whose float coordinate runtimes
    round differently; from half the size there is nothing to round. The surplus maps of an uneven split are never computed
    once fused. Equal.
Deviations: the official block takes layer_id and has the gate from the third layer on (layer_id > 1); here it is the
    argument attention. Mode 'original' of the module is the zoo's ghostmodule.
Limits: H and W of at least 2, for the gate pools by 2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.modules.convolution.ghost import GhostBottleneckParts, GhostModule
from attn_deploy.ops import (
    check_channels,
    conv_bn_act,
    require_odd,
    require_positive,
    resize_nearest,
    resize_nearest_from_half,
)
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register


@register(
    "ghostmodule_v2",
    aliases=("dfc_attention", "dfc", "ghost_v2"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=7584,
    minimum={"H": 2, "W": 2},
)
class GhostModuleV2(nn.Module):
    """Gates a Ghost module's maps by attention along rows and columns, computed at half the size.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k of the primary convolution and of the gate's first.
        ratio: how many maps each map of the primary convolution gives, itself included.
        dw_size: kernel size of the depthwise filters.
        stride: step of the primary convolution and of the gate's first.
        relu: whether ReLU follows both parts of the Ghost module.

    Raises:
        ValueError: if ratio < 2, a kernel size is even, or H or W is below 2.
    """

    official_keys = {"primary_conv": "ghost.primary", "cheap_operation": "ghost.cheap", "short_conv": "gate"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        stride: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.stride = in_channels, stride
        self.ghost = GhostModule(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            ratio=ratio,
            dw_size=dw_size,
            stride=stride,
            relu=relu,
        )
        self.gate = nn.Sequential(
            *conv_bn_act(in_channels, out_channels, kernel_size, stride=stride),
            *conv_bn_act(out_channels, out_channels, (1, 5), groups=out_channels),
            *conv_bn_act(out_channels, out_channels, (5, 1), groups=out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "GhostModuleV2")
        require_least_size(x, 2, "GhostModuleV2", "the gate is computed at half the size; use ghostmodule instead")
        maps = self.ghost(x)
        gate = self.gate(F.avg_pool2d(x, 2)).sigmoid()
        enlarge = resize_nearest_from_half if self.stride <= 2 else resize_nearest
        return maps * enlarge(gate, maps.shape[2], maps.shape[3])


@register(
    "ghostv2_bottleneck",
    aliases=("ghost_bottleneck_v2", "ghostnetv2_block"),
    reference={"in_channels": 64, "out_channels": 64, "mid_channels": 128},
    parameters=19680,
    minimum={"H": 2, "W": 2},
)
class GhostBottleneckV2(GhostBottleneckParts):
    """Expands with a gated Ghost module, strides depthwise, reweights the channels and projects with a plain Ghost module.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        mid_channels: width between the two Ghost modules; None is twice C_in.
        kernel_size: of the strided depthwise convolution and of the shortcut's.
        stride: step; 1 leaves the depthwise convolution out.
        se_ratio: width of the squeeze-and-excitation over mid_channels, rounded to a multiple of 4; 0 leaves it out.
        attention: whether the first Ghost module is gated.

    Raises:
        ValueError: if kernel_size is even, se_ratio is negative, a number is below its least, or H or W is below 2 with
            attention.
    """

    official_keys = {
        "ghost1.primary_conv": "expand.ghost.primary",
        "ghost1.cheap_operation": "expand.ghost.cheap",
        "ghost1.short_conv": "expand.gate",
        "ghost2.primary_conv": "project.primary",
        "ghost2.cheap_operation": "project.cheap",
        "conv_dw": "depthwise.0",
        "bn_dw": "depthwise.1",
        "se.conv_reduce": "se.0",
        "se.conv_expand": "se.2",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        se_ratio: float = 0.0,
        attention: bool = True,
    ) -> None:
        require_positive(in_channels=in_channels)
        mid_channels = 2 * in_channels if mid_channels is None else mid_channels
        require_positive(mid_channels=mid_channels)
        require_odd(kernel_size=kernel_size)
        super().__init__(
            (GhostModuleV2 if attention else GhostModule)(in_channels, mid_channels),
            in_channels,
            mid_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            se_ratio=se_ratio,
        )
        if not attention:
            self.official_keys = {**self.official_keys, **_UNGATED}


_UNGATED = {"ghost1.primary_conv": "expand.primary", "ghost1.cheap_operation": "expand.cheap"}
