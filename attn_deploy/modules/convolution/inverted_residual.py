"""Inverted residual blocks: MobileNetV2 and V3's, EfficientNet's MBConv, and EfficientNetV2's fused form of it.

Paper: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381; Searching for MobileNetV3,
    ICCV 2019, arXiv:1905.02244; EfficientNet, ICML 2019, arXiv:1905.11946; EfficientNetV2: Smaller Models and Faster
    Training, ICML 2021, arXiv:2104.00298.
Official: huggingface/pytorch-image-models, timm/models/_efficientnet_blocks.py (InvertedResidual, EdgeResidual,
    SqueezeExcite), into which the official TensorFlow weights load.
Export: the gate pools by a mean over H and W; nothing else had to be replaced. TF-SAME padding at stride 2 depends on the
    size of the map: the map is padded by the constant maximum and the surplus is sliced off. Every BatchNorm folds. Equal.
Deviations: se_ratio is relative to the widened channels, as in timm's block; EfficientNet's papers count from the
    block's input (0.25 there is 0.25 / expand_ratio here). Its blocks of expand_ratio 1 are other ones: MBConv without
    the first convolution, and a single convolution for the fused form.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    activation,
    check_channels,
    conv_bn_act,
    global_avg_pool,
    make_divisible,
    pad_same,
    require_activation,
    require_choice,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register

GATES = {"sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid}
PADDINGS = ("symmetric", "same")
_REFERENCE = {"in_channels": 64, "out_channels": 64}


class ChannelGate(nn.Module):
    """Squeeze-and-excitation with any activation and gate, as the blocks for mobile devices use it.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        width: of the hidden layer.
        act: activation of the hidden layer.
        gate: "sigmoid" or "hardsigmoid".
    """

    def __init__(self, channels: int, width: int, *, act: str, gate: str) -> None:
        super().__init__()
        require_choice("gate", gate, GATES)
        self.conv_reduce = nn.Conv2d(channels, width, 1)
        self.act = activation(act)
        self.conv_expand = nn.Conv2d(width, channels, 1)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.conv_expand(self.act(self.conv_reduce(global_avg_pool(x)))))


def expanded_width(in_channels: int, expand_ratio: float) -> int:
    """The width in the middle of a block: a multiple of 8 near in_channels * expand_ratio.

    Raises:
        ValueError: if that product is below 1.
    """
    require_positive(in_channels=in_channels)
    if in_channels * expand_ratio < 1:
        raise ValueError(
            f"in_channels * expand_ratio must be at least 1, got in_channels={in_channels} and "
            f"expand_ratio={expand_ratio}: use a larger expand_ratio, such as 4."
        )
    return make_divisible(in_channels * expand_ratio, 8)


def hidden_act(act: str, gate: str, se_act: str | None) -> str:
    """The activation of a gate's hidden layer: MobileNetV3 forces ReLU, the others take the block's."""
    require_activation("se_act", se_act)
    if se_act is not None:
        return se_act
    return "relu" if gate == "hardsigmoid" else act


def channel_gate(channels: int, se_ratio: float, *, act: str, gate: str) -> ChannelGate | None:
    """The block's squeeze-and-excitation; None for a ratio of 0.

    Raises:
        ValueError: if the ratio is negative, or leaves no hidden channel.
    """
    require_choice("gate", gate, GATES)
    if se_ratio == 0:
        return None
    if se_ratio < 0 or round(channels * se_ratio) < 1:
        raise ValueError(
            f"se_ratio must leave at least 1 of {channels} channels, or be 0, got {se_ratio}: 0 leaves "
            "squeeze-and-excitation out, 0.25 is usual."
        )
    return ChannelGate(channels, round(channels * se_ratio), act=act, gate=gate)


class _Block(nn.Module):
    """What both forms share: the checks, TensorFlow's padding of the strided convolution, and the skip."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, pad: str, drop_path: float
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_odd(kernel_size=kernel_size)
        require_choice("pad", pad, PADDINGS)
        if pad == "same" and 1 < kernel_size < stride:
            raise ValueError(
                f"pad='same' needs a kernel of at least the stride, got kernel_size={kernel_size} and stride={stride}: "
                "use pad='symmetric' or a larger kernel."
            )
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride
        self.moving_pad = pad == "same" and stride > 1  # at stride 1 both paddings are the same
        self.padding = 0 if self.moving_pad else kernel_size // 2
        self.skip = in_channels == out_channels and stride == 1
        self.drop_path = DropPath(drop_path)

    def _padded(self, x: Tensor) -> Tensor:
        return pad_same(x, self.kernel_size, stride=self.stride) if self.moving_pad else x

    def _joined(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.drop_path(y) if self.skip else y


@register(
    "inverted_residual",
    aliases=("mobilenetv2_block", "inverted_bottleneck"),
    reference=_REFERENCE,
    parameters=54272,
)
class InvertedResidual(_Block):
    """Widens by a 1x1 convolution, filters each channel by itself, and narrows without an activation.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; the input is added where it is C_in and stride is 1.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        expand_ratio: factor by which the middle is wider than C_in, rounded to a multiple of 8.
        se_ratio: width of the gate's hidden layer over the middle's; 0 leaves the gate out.
        act: "relu", "relu6", "silu", "gelu" or "hardswish".
        gate: "sigmoid" or "hardsigmoid".
        pad: "symmetric", or "same" for TensorFlow's rule.
        drop_path: share of the samples whose branch is left out in training, where there is a skip.
        se_act: activation of the gate's hidden layer; None is "relu" with the gate "hardsigmoid", as in MobileNetV3, and
            act otherwise.
        bn_eps: of every BatchNorm; 1e-3 in checkpoints from TensorFlow.

    Raises:
        ValueError: if the middle would have no channel, kernel_size is even, act, gate or pad is unknown, se_ratio
            leaves no channel, or drop_path is not a rate.
    """

    official_keys = {
        "conv_pw": "expand.0",
        "bn1": "expand.1",
        "conv_dw": "depthwise.0",
        "bn2": "depthwise.1",
        "conv_pwl": "project.0",
        "bn3": "project.1",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        expand_ratio: float = 6,
        se_ratio: float = 0.0,
        act: str = "relu6",
        gate: str = "sigmoid",
        pad: str = "symmetric",
        drop_path: float = 0.0,
        se_act: str | None = None,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, pad, drop_path)
        width = expanded_width(in_channels, expand_ratio)
        self.expand = conv_bn_act(in_channels, width, act=act, bn_eps=bn_eps)
        self.depthwise = conv_bn_act(
            width, width, kernel_size, stride=stride, padding=self.padding, groups=width, act=act, bn_eps=bn_eps
        )
        self.se = channel_gate(width, se_ratio, act=hidden_act(act, gate, se_act), gate=gate)
        self.project = conv_bn_act(width, out_channels, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, type(self).__name__)
        y = self.depthwise(self._padded(self.expand(x)))
        if self.se is not None:
            y = self.se(y)
        return self._joined(x, self.project(y))


@register(
    "mbconv",
    aliases=("mobile_inverted_bottleneck", "efficientnet_block"),
    reference=_REFERENCE,
    parameters=69312,
)
class MBConv(InvertedResidual):
    """Inverted residual with a channel gate in its middle, as EfficientNet stacks it.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; the input is added where it is C_in and stride is 1.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        expand_ratio: factor by which the middle is wider than C_in, rounded to a multiple of 8.
        se_ratio: width of the gate's hidden layer over the middle's; 0 leaves the gate out.
        act: "relu", "relu6", "silu", "gelu" or "hardswish".
        gate: "sigmoid" or "hardsigmoid".
        pad: "symmetric", or "same" for TensorFlow's rule.
        drop_path: share of the samples whose branch is left out in training, where there is a skip.
        se_act: activation of the gate's hidden layer; None is "relu" with the gate "hardsigmoid", as in MobileNetV3, and
            act otherwise.
        bn_eps: of every BatchNorm; 1e-3 in checkpoints from TensorFlow.

    Raises:
        ValueError: if the middle would have no channel, kernel_size is even, act, gate or pad is unknown, se_ratio
            leaves no channel, or drop_path is not a rate.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        expand_ratio: float = 4,
        se_ratio: float = 0.25,
        act: str = "silu",
        gate: str = "sigmoid",
        pad: str = "symmetric",
        drop_path: float = 0.0,
        se_act: str | None = None,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            expand_ratio=expand_ratio,
            se_ratio=se_ratio,
            act=act,
            gate=gate,
            pad=pad,
            drop_path=drop_path,
            se_act=se_act,
            bn_eps=bn_eps,
        )


@register("fused_mbconv", aliases=("edge_residual",), reference=_REFERENCE, parameters=164480)
class FusedMBConv(_Block):
    """Inverted residual whose widening and filtering are one dense convolution, as EfficientNetV2's early stages have it.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; the input is added where it is C_in and stride is 1.
        kernel_size: of the dense convolution.
        stride: of the dense convolution.
        expand_ratio: factor by which the middle is wider than C_in, rounded to a multiple of 8.
        se_ratio: width of the gate's hidden layer over the middle's; 0 leaves the gate out.
        act: "relu", "relu6", "silu", "gelu" or "hardswish".
        gate: "sigmoid" or "hardsigmoid".
        pad: "symmetric", or "same" for TensorFlow's rule.
        drop_path: share of the samples whose branch is left out in training, where there is a skip.
        se_act: activation of the gate's hidden layer; None is "relu" with the gate "hardsigmoid", as in MobileNetV3, and
            act otherwise.
        bn_eps: of both BatchNorms; 1e-3 in checkpoints from TensorFlow.

    Raises:
        ValueError: if the middle would have no channel, kernel_size is even, act, gate or pad is unknown, se_ratio
            leaves no channel, or drop_path is not a rate.
    """

    official_keys = {"conv_exp": "expand.0", "bn1": "expand.1", "conv_pwl": "project.0", "bn2": "project.1"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        expand_ratio: float = 4,
        se_ratio: float = 0.0,
        act: str = "silu",
        gate: str = "sigmoid",
        pad: str = "symmetric",
        drop_path: float = 0.0,
        se_act: str | None = None,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, pad, drop_path)
        width = expanded_width(in_channels, expand_ratio)
        self.expand = conv_bn_act(
            in_channels, width, kernel_size, stride=stride, padding=self.padding, act=act, bn_eps=bn_eps
        )
        self.se = channel_gate(width, se_ratio, act=hidden_act(act, gate, se_act), gate=gate)
        self.project = conv_bn_act(width, out_channels, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "FusedMBConv")
        y = self.expand(self._padded(x))
        if self.se is not None:
            y = self.se(y)
        return self._joined(x, self.project(y))
