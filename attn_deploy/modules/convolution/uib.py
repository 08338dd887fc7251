"""Universal inverted bottleneck of MobileNetV4.

Paper: MobileNetV4: Universal Models for the Mobile Ecosystem, ECCV 2024, arXiv:2404.10518.
Official: huggingface/pytorch-image-models, timm/models/_efficientnet_blocks.py (UniversalInvertedResidual).
Export: nothing had to be replaced. Every BatchNorm folds, and so does the layer scale, into the last convolution. Equal.
Deviations: the layer scale is on, as in timm's block; MobileNetV4's convolutional models leave it out (layer_scale=None).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.modules.convolution.inverted_residual import (
    PADDINGS,
    channel_gate,
    expanded_width,
    hidden_act,
)
from attn_deploy.ops import (
    DropPath,
    Fusible,
    check_channels,
    conv_bn_act,
    fold_sequential,
    pad_same,
    require_choice,
    require_odd,
    require_positive,
    scale_conv_output_,
)
from attn_deploy.registry import register


@register(
    "uib",
    aliases=("universal_inverted_bottleneck", "universal_inverted_residual", "mobilenetv4_block"),
    reference={"in_channels": 64, "out_channels": 64, "start_kernel": 5, "mid_kernel": 3},
    parameters=38016,
)
class UniversalInvertedBottleneck(Fusible, nn.Module):
    """Widens and narrows by 1x1 convolutions, with a depthwise convolution before, between or after them, each optional.

    With start and middle it is ExtraDW, with the middle alone an inverted bottleneck, with the start alone like ConvNeXt,
    with none a feed-forward network.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; the input is added where it is C_in and stride is 1.
        start_kernel: of the depthwise convolution before, which has no activation; 0 leaves it out.
        mid_kernel: of the depthwise convolution between; 0 leaves it out.
        end_kernel: of the depthwise convolution after, which has no activation; 0 leaves it out.
        stride: of the depthwise convolution between, else of the one before, else of the one after.
        expand_ratio: factor by which the middle is wider than C_in, rounded to a multiple of 8.
        se_ratio: width of the gate's hidden layer over the middle's; 0 leaves the gate out.
        act: "relu", "relu6", "silu", "gelu" or "hardswish".
        gate: "sigmoid" or "hardsigmoid".
        pad: "symmetric", or "same" for TensorFlow's rule.
        layer_scale: what the factor on the branch starts at, True for 1e-5; None, 0 or False leaves it out.
        drop_path: share of the samples whose branch is left out in training, where there is a skip.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if stride is above 1 without any depthwise convolution, the middle would have no channel, a kernel is
            even, act, gate or pad is unknown, or drop_path is not a rate.
    """

    official_keys = {
        "dw_start.conv": "start.0",
        "dw_start.bn": "start.1",
        "pw_exp.conv": "expand.0",
        "pw_exp.bn": "expand.1",
        "dw_mid.conv": "middle.0",
        "dw_mid.bn": "middle.1",
        "pw_proj.conv": "project.0",
        "pw_proj.bn": "project.1",
        "dw_end.conv": "end.0",
        "dw_end.bn": "end.1",
        "layer_scale.gamma": "gamma",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        start_kernel: int = 0,
        mid_kernel: int = 3,
        end_kernel: int = 0,
        stride: int = 1,
        expand_ratio: float = 4,
        se_ratio: float = 0.0,
        act: str = "relu",
        gate: str = "sigmoid",
        pad: str = "symmetric",
        layer_scale: float | bool | None = 1e-5,
        drop_path: float = 0.0,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        kernels = {"start_kernel": start_kernel, "mid_kernel": mid_kernel, "end_kernel": end_kernel}
        require_odd(**{name: k for name, k in kernels.items() if k})
        require_choice("pad", pad, PADDINGS)
        if stride > 1 and not any(kernels.values()):
            raise ValueError(
                f"stride={stride} needs a depthwise convolution, got {', '.join(f'{n}={k}' for n, k in kernels.items())}: "
                "give one of them a kernel, such as mid_kernel=3, or use stride=1."
            )
        strided = mid_kernel or start_kernel or end_kernel
        if pad == "same" and 1 < strided < stride:
            raise ValueError(
                f"pad='same' needs a kernel of at least the stride, got a kernel of {strided} and stride={stride}: use "
                "pad='symmetric' or a larger kernel."
            )
        self.in_channels, self.stride = in_channels, stride
        # At stride 1 both paddings are the same.
        self.moving_kernel = strided if pad == "same" and stride > 1 else 0
        self.skip = in_channels == out_channels and stride == 1
        width = expanded_width(in_channels, expand_ratio)

        def depthwise(channels: int, kernel: int, step: int, act: str | None = None) -> nn.Sequential | None:
            if not kernel:
                return None
            padding = 0 if self.moving_kernel and step > 1 else None
            return conv_bn_act(
                channels, channels, kernel, stride=step, padding=padding, groups=channels, act=act, bn_eps=bn_eps
            )

        self.start = depthwise(in_channels, start_kernel, 1 if mid_kernel else stride)
        self.expand = conv_bn_act(in_channels, width, act=act, bn_eps=bn_eps)
        self.middle = depthwise(width, mid_kernel, stride, act)
        self.se = channel_gate(width, se_ratio, act=hidden_act(act, gate, None), gate=gate)
        self.project = conv_bn_act(width, out_channels, bn_eps=bn_eps)
        self.end = depthwise(out_channels, end_kernel, 1 if start_kernel or mid_kernel else stride)
        value = 1e-5 if layer_scale is True else float(layer_scale or 0)
        self.gamma = nn.Parameter(torch.full((out_channels,), value)) if value else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "UniversalInvertedBottleneck")
        y = self.expand(self._filtered(self.start, x))
        y = self._filtered(self.middle, y)
        if self.se is not None:
            y = self.se(y)
        y = self._filtered(self.end, self.project(y))
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y) if self.skip else y

    def _filtered(self, layer: nn.Sequential | None, x: Tensor) -> Tensor:
        if layer is None:
            return x
        if self.moving_kernel and layer[0].stride[0] > 1:
            x = pad_same(x, self.moving_kernel, stride=self.stride)
        return layer(x)

    def fuse_(self) -> str | None:
        """Fold the layer scale into the last convolution."""
        if self.gamma is None:
            return None
        last = self.project if self.end is None else self.end
        fold_sequential(last)
        scale_conv_output_(last[0], self.gamma)
        self.gamma = None
        return "folded the layer scale into the last convolution"
