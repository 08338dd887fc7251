"""Receptive Field Blocks: RFB, RFB-s and the larger RFB of RFB-E.

Paper: Receptive Field Block Net for Accurate and Fast Object Detection, ECCV 2018, arXiv:1711.07767.
Official: ruinmessi/RFBNet, models/RFB_Net_vgg.py (BasicRFB, BasicRFB_a) and models/RFB_Net_E_vgg.py (BasicRFB).
Export: Conv, Concat, Add and Relu; nothing had to be replaced. Fusing folds every BatchNorm, and the scale into the
    projection.
Limits: rfb_s has stride 1 only; the official class strides two of its four branches, so that it fails at 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, conv_bn_relu, require_choice, require_positive
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}


class _ReceptiveFieldBlock(Fusible, nn.Module):
    """Branches of growing reach side by side, projected, scaled and added to a shortcut."""

    official_keys = {"ConvLinear": "project"}

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, scale: float, branches: Sequence[nn.Sequential]
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.scale = float(scale)
        self.branches = nn.ModuleList(branches)
        width = sum(branch[-1][0].out_channels for branch in branches)
        self.project = conv_bn_relu(width, out_channels, relu=False)
        self.shortcut = conv_bn_relu(in_channels, out_channels, stride=stride, relu=False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        converted = {}
        for key, value in state.items():
            ours = key.replace(".conv.", ".0.").replace(".bn.", ".1.")
            converted[f"branches.{ours.removeprefix('branch')}" if ours.startswith("branch") else ours] = value
        return converted

    @torch.no_grad()
    def fuse_(self) -> str | None:
        if self.scale == 1.0:
            return None
        conv, norm = self.project
        last = conv if isinstance(norm, nn.Identity) else norm
        last.weight.mul_(self.scale)
        last.bias.mul_(self.scale)
        self.scale = 1.0
        return "folded the scale into the projection"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, type(self).__name__)
        y = self.project(torch.cat([branch(x) for branch in self.branches], 1))
        if self.scale != 1.0:
            y = y * self.scale
        return (y + self.shortcut(x)).relu()


@register("rfb", aliases=("basic_rfb",), reference=_REFERENCE, parameters=20376)
class RFB(_ReceptiveFieldBlock):
    """Three branches whose dilation grows with their kernels, after the eccentricity of human receptive fields.

    Shape: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C, at least 16.
        out_channels: channels of the output.
        stride: 1 or 2.
        scale: of the branches before they are added to the shortcut; the official detectors use 1.0.
        visual: dilation of the first branch; the others have visual + 1 and 2 visual + 1.

    Raises:
        ValueError: if in_channels < 16, stride is neither 1 nor 2, visual < 1, or scale is not finite.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, scale: float = 0.1, visual: int = 1
    ) -> None:
        require_positive(visual=visual)
        _check(in_channels, out_channels, stride, scale)
        branches = _three_branches(in_channels, stride, (visual, visual + 1, 2 * visual + 1))
        super().__init__(in_channels, out_channels, stride, scale, branches)


@register("rfb_e", aliases=("rfb_e_vgg",), reference=_REFERENCE, parameters=26336)
class RFBe(_ReceptiveFieldBlock):
    """RFB with dilations 1, 3, 5 and a fourth branch of 1x7, 7x1 and dilation 7.

    Shape: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C, at least 16.
        out_channels: channels of the output.
        stride: 1 or 2.
        scale: of the branches before they are added to the shortcut; the official detectors use 1.0.

    Raises:
        ValueError: if in_channels < 16, stride is neither 1 nor 2, or scale is not finite.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, scale: float = 0.1) -> None:
        _check(in_channels, out_channels, stride, scale)
        width = in_channels // 8
        widest = nn.Sequential(
            conv_bn_relu(in_channels, width),
            conv_bn_relu(width, width // 2 * 3, (1, 7)),
            conv_bn_relu(width // 2 * 3, 2 * width, (7, 1), stride=stride),
            conv_bn_relu(2 * width, 2 * width, 3, dilation=7, relu=False),
        )
        branches = [*_three_branches(in_channels, stride, (1, 3, 5)), widest]
        super().__init__(in_channels, out_channels, stride, scale, branches)


@register("rfb_s", aliases=("basic_rfb_a", "basic_rfb_small"), reference=_REFERENCE, parameters=24008)
class RFBs(_ReceptiveFieldBlock):
    """Four light branches for shallow layers, with 1x3 and 3x1 kernels.

    Shape: (N, C, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: C, at least 16.
        out_channels: channels of the output.
        stride: 1; at 2 the official block fails too.
        scale: of the branches before they are added to the shortcut; the official detectors use 1.0.

    Raises:
        ValueError: if in_channels < 16, stride is not 1, or scale is not finite.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, scale: float = 0.1) -> None:
        _check(in_channels, out_channels, stride, scale)
        if stride != 1:
            raise ValueError(
                f"stride must be 1 for rfb_s, got {stride}: its official code strides two branches of four, which "
                "cannot be concatenated. Use rfb for stride=2."
            )
        m = in_channels // 4
        tall = m // 4 * 3
        branches = [
            nn.Sequential(conv_bn_relu(in_channels, m), conv_bn_relu(m, m, 3, relu=False)),
            nn.Sequential(
                conv_bn_relu(in_channels, m),
                conv_bn_relu(m, m, (3, 1)),
                conv_bn_relu(m, m, 3, dilation=3, relu=False),
            ),
            nn.Sequential(
                conv_bn_relu(in_channels, m),
                conv_bn_relu(m, m, (1, 3)),
                conv_bn_relu(m, m, 3, dilation=3, relu=False),
            ),
            nn.Sequential(
                conv_bn_relu(in_channels, m // 2),
                conv_bn_relu(m // 2, tall, (1, 3)),
                conv_bn_relu(tall, m, (3, 1)),
                conv_bn_relu(m, m, 3, dilation=5, relu=False),
            ),
        ]
        super().__init__(in_channels, out_channels, stride, scale, branches)


def _three_branches(in_channels: int, stride: int, dilations: tuple[int, int, int]) -> list[nn.Sequential]:
    width = in_channels // 8
    wide, middle = 2 * width, width // 2 * 3

    def last(dilation: int) -> nn.Sequential:
        return conv_bn_relu(wide, wide, 3, dilation=dilation, relu=False)

    return [
        nn.Sequential(conv_bn_relu(in_channels, wide, stride=stride), last(dilations[0])),
        nn.Sequential(
            conv_bn_relu(in_channels, width), conv_bn_relu(width, wide, 3, stride=stride), last(dilations[1])
        ),
        nn.Sequential(
            conv_bn_relu(in_channels, width),
            conv_bn_relu(width, middle, 3),
            conv_bn_relu(middle, wide, 3, stride=stride),
            last(dilations[2]),
        ),
    ]


def _check(in_channels: int, out_channels: int, stride: int, scale: float) -> None:
    require_positive(in_channels=in_channels, out_channels=out_channels)
    require_choice("stride", stride, (1, 2))
    if in_channels < 16:
        raise ValueError(
            f"in_channels must be at least 16, got {in_channels}: the narrowest branch has an eighth of them and "
            "would be left with none."
        )
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}: the official detectors use 1.0.")
