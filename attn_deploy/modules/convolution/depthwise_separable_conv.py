"""Depthwise separable convolution: plain, with BatchNorm after the second layer, or after both (MobileNetV1).

Paper: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017, arXiv:1610.02357; MobileNets,
    arXiv:1704.04861.
Official: huggingface/pytorch-image-models, timm/layers/separable_conv.py (SeparableConv2d, SeparableConvNormAct); the
    MobileNetV1 block (norm="both") from the paper.
Export: two Conv nodes; nothing had to be replaced. Fusing folds each BatchNorm into the convolution before it.
Deviations: most collections have a bias on both convolutions and no norm: bias=True, depthwise_bias=True.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_not_negative, require_positive
from attn_deploy.registry import register

_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "swish": nn.SiLU, "none": nn.Identity}


@register(
    "depthwise_separable_conv",
    aliases=("dwsconv", "dw_conv", "separable_conv2d"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=4672,
)
class DepthwiseSeparableConv2d(nn.Module):
    """One spatial filter for each channel, then a 1x1 convolution across channels.

    Shape: (N, C, H, W) -> (N, out_channels, H', W'), H' = floor((H + 2 padding - dilation (kernel_size - 1) - 1) /
    stride) + 1; dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        padding: None for the symmetric padding that keeps H and W at stride 1.
        dilation: of the depthwise convolution.
        bias: whether the 1x1 convolution has a bias.
        depthwise_bias: whether the depthwise convolution has one (timm's never has).
        depth_multiplier: depthwise filters for each input channel.
        norm: "none"; "last" for BatchNorm and activation after the 1x1 convolution; "both" for them after each.
        activation: "relu", "relu6", "swish" or "none", after each BatchNorm.

    Raises:
        ValueError: if in_channels * depth_multiplier is not a multiple of in_channels, a kernel without a centre is
            given without its padding, or norm or activation is unknown.
    """

    official_keys = {
        "conv_dw": "depthwise.0",
        "conv_pw": "pointwise.0",
        "bn": "pointwise.1",
        "depth_conv": "depthwise.0",
        "point_conv": "pointwise.0",
        "0": "depthwise.0",
        "1": "depthwise.1",
        "3": "pointwise.0",
        "4": "pointwise.1",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        bias: bool = False,
        depthwise_bias: bool = False,
        depth_multiplier: float = 1,
        norm: str = "none",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
        )
        require_not_negative(padding=padding or 0)
        require_choice("norm", norm, ("none", "last", "both"))
        require_choice("activation", activation, _ACTIVATIONS)
        hidden = in_channels * depth_multiplier
        if hidden < in_channels or hidden % in_channels:
            raise ValueError(
                f"in_channels * depth_multiplier must be a multiple of in_channels, got in_channels={in_channels} and "
                f"depth_multiplier={depth_multiplier}: use a whole depth_multiplier of at least 1."
            )
        hidden = int(hidden)
        if padding is None:
            if kernel_size % 2 == 0:
                raise ValueError(
                    f"kernel_size={kernel_size} has no centre, so padding=None would change the size of the map: "
                    f"use kernel_size={kernel_size + 1}, or give the padding."
                )
            padding = (stride - 1 + dilation * (kernel_size - 1)) // 2
        self.in_channels = in_channels
        depthwise = nn.Conv2d(
            in_channels,
            hidden,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=depthwise_bias,
        )
        pointwise = nn.Conv2d(hidden, out_channels, 1, bias=bias)
        act = _ACTIVATIONS[activation]
        self.depthwise = nn.Sequential(depthwise)
        self.pointwise = nn.Sequential(pointwise)
        if norm == "both":
            self.depthwise.extend([nn.BatchNorm2d(hidden), act()])
        if norm != "none":
            self.pointwise.extend([nn.BatchNorm2d(out_channels), act()])

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DepthwiseSeparableConv2d")
        return self.pointwise(self.depthwise(x))
