"""Self-calibrated convolution of SCNet, and its bottleneck block.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020, mftp.mmcheng.net 20cvprSCNet.
Official: MCG-NKU/SCNet, scnet.py (SCConv, SCBottleneck).
Export: the nearest up-sampling of the calibration map is exact integer arithmetic (ops.resize_nearest); ONNX's Resize
    rounds its float coordinate and picks other source pixels at some sizes.
Limits: output channels and padding are not arguments: the calibration adds the input to a 3x3 map of the same size, so
    the official code too needs as many channels out as in, and padding equal to dilation. H and W must be at least
    pool_size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, conv_bn_relu, require_divisible, require_positive, resize_nearest
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register


@register(
    "sc_conv",
    aliases=("self_calibrated_conv",),
    parameters=110976,
    minimum={"H": 4, "W": 4},
)
class SelfCalibratedConv2d(nn.Module):
    """Convolves a map that is gated by a coarse, pooled view of the same input.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); dynamic N, H, W of at least pool_size.

    Args:
        channels: C.
        stride: of the last convolution.
        dilation: of all three convolutions, and their padding.
        groups: of all three convolutions.
        pool_size: window and stride of the average pooling that makes the coarse view.

    Raises:
        ValueError: if channels is not a multiple of groups, or H or W is less than pool_size.
    """

    official_keys = {"k2": "calibrate", "k3": "transform", "k4": "output"}

    def __init__(
        self, channels: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, pool_size: int = 4
    ) -> None:
        super().__init__()
        require_positive(channels=channels, stride=stride, dilation=dilation, groups=groups, pool_size=pool_size)
        require_divisible("channels", channels, "groups", groups)
        self.channels, self.pool_size = channels, pool_size

        def conv_bn(stride: int = 1) -> nn.Sequential:
            return conv_bn_relu(channels, channels, 3, stride=stride, dilation=dilation, groups=groups, relu=False)

        self.calibrate = nn.Sequential(nn.AvgPool2d(pool_size), *conv_bn())
        self.transform = conv_bn()
        self.output = conv_bn(stride)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SelfCalibratedConv2d")
        height, width = x.shape[2], x.shape[3]
        require_least_size(x, self.pool_size, "SelfCalibratedConv2d", "use a smaller pool_size or a larger map")
        gate = (x + resize_nearest(self.calibrate(x), height, width)).sigmoid()
        return self.output(self.transform(x) * gate)


@register(
    "sc_bottleneck",
    reference={"in_channels": 64, "planes": 16},
    parameters=4576,
    minimum={"H": 4, "W": 4},
)
class SCBottleneck(nn.Module):
    """Residual bottleneck with a plain and a self-calibrated 3x3 convolution side by side.

    Shape: (N, in_channels, H, W) -> (N, 4 * planes, Ho, Wo), halved by stride 2; dynamic N, H, W.

    Args:
        in_channels: channels of the input.
        planes: a quarter of the channels of the output.
        stride: of the block.
        dilation: of the 3x3 convolutions.
        cardinality: groups of the 3x3 convolutions.
        bottleneck_width: each branch has int(planes * bottleneck_width / 64) * cardinality channels.
        average_down: take the stride by a 3x3 average pooling after the 3x3 convolutions instead of in them.

    Raises:
        ValueError: if planes * bottleneck_width is less than 64, or H or W of a branch is less than 4.
    """

    official_keys = {
        "conv1_a": "reduce_a.0",
        "bn1_a": "reduce_a.1",
        "conv1_b": "reduce_b.0",
        "bn1_b": "reduce_b.1",
        "k1": "conv_a",
        "scconv.k2": "conv_b.calibrate",
        "scconv.k3": "conv_b.transform",
        "scconv.k4": "conv_b.output",
        "conv3": "expand.0",
        "bn3": "expand.1",
        "downsample": "shortcut",
    }

    def __init__(
        self,
        in_channels: int,
        *,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        cardinality: int = 1,
        bottleneck_width: int = 32,
        average_down: bool = False,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, planes=planes, stride=stride, dilation=dilation)
        require_positive(cardinality=cardinality, bottleneck_width=bottleneck_width)
        width = planes * bottleneck_width // 64 * cardinality
        if width < 1:
            raise ValueError(
                f"planes * bottleneck_width must be at least 64, got planes={planes} and "
                f"bottleneck_width={bottleneck_width}: use a bottleneck_width of at least {-(-64 // planes)}."
            )
        self.in_channels = in_channels
        inner = 1 if average_down else stride
        self.reduce_a = conv_bn_relu(in_channels, width)
        self.reduce_b = conv_bn_relu(in_channels, width)
        self.conv_a = conv_bn_relu(width, width, 3, stride=inner, dilation=dilation, groups=cardinality, relu=False)
        self.conv_b = SelfCalibratedConv2d(width, stride=inner, dilation=dilation, groups=cardinality)
        self.down = nn.AvgPool2d(3, stride, padding=1) if average_down else nn.Identity()
        self.expand = conv_bn_relu(2 * width, 4 * planes, relu=False)
        same = stride == 1 and in_channels == 4 * planes
        self.shortcut = nn.Identity() if same else conv_bn_relu(in_channels, 4 * planes, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SCBottleneck")
        a = self.down(self.conv_a(self.reduce_a(x)).relu())
        b = self.down(self.conv_b(self.reduce_b(x)).relu())
        return (self.expand(torch.cat([a, b], 1)) + self.shortcut(x)).relu()
