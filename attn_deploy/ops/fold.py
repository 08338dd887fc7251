"""`torch.nn.functional.fold` without the operator Col2Im, which TensorRT lacks and which enters ONNX at opset 18."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]


def fold(
    x: Tensor, output_size: Pair, kernel_size: Pair, dilation: Pair = 1, padding: Pair = 0, stride: Pair = 1
) -> Tensor:
    """Sum of overlapping patches: (N, C * kh * kw, L) -> (N, C, *output_size), equal to torch's up to rounding.

    A transposed convolution with a one-hot kernel puts each column of a patch at its place. Works at symbolic sizes.
    """
    height, width = _pair(output_size)
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = (_pair(v) for v in (kernel_size, dilation, padding, stride))
    rows = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    columns = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    channels = int(x.shape[1]) // (kh * kw)  # a number also while traced: the kernel is a constant
    kernel = torch.eye(kh * kw, dtype=x.dtype, device=x.device).reshape(kh * kw, 1, kh, kw).repeat(channels, 1, 1, 1)
    maps = x.reshape(x.shape[0], channels * kh * kw, rows, columns)
    if sh == sw == 1:
        return F.conv_transpose2d(maps, kernel, stride=1, padding=(ph, pw), groups=channels, dilation=(dh, dw))
    whole = F.conv_transpose2d(maps, kernel, stride=(sh, sw), groups=channels, dilation=(dh, dw))
    below, right = height + 2 * ph - whole.shape[2], width + 2 * pw - whole.shape[3]
    return F.pad(whole, (0, right, 0, below))[:, :, ph : ph + height, pw : pw + width]


def _pair(value: Pair) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)
