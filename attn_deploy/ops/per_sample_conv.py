"""A convolution with a kernel of each sample's own, from the form that users write: the batch as groups."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from attn_deploy.ops.expert_conv import arranged_kernels, convolved


def grouped_by_batch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> Tensor:
    """`F.conv2d(x, weight, bias, groups=groups)` where ``groups`` is symbolic: ONNX's Conv has it as a constant.

    Args:
        x: (1, groups * cin, H, W).
        weight: (groups * cout, cin, k, k).
        bias: groups * cout values, or None.
        groups: of the batch, times groups of each sample.
        kernel: k, as a number also while traced.
        stride: of both axes.
        padding: zeros added above and below, left and right.
        dilation: of both axes.
    """
    out_channels, in_channels = weight.shape[0] // groups, weight.shape[1]
    maps = x.reshape(groups, in_channels, x.shape[2], x.shape[3])
    if padding != (0, 0):
        maps = F.pad(maps, (padding[1], padding[1], padding[0], padding[0]))
    kernels = weight.reshape(groups, out_channels, in_channels, kernel, kernel)
    mixed = convolved(maps, arranged_kernels(kernels, stride), kernel, stride=stride, dilation=dilation)
    result = mixed.flatten(0, 1).unsqueeze(0)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)
