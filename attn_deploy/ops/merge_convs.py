"""Parallel convolutions of one input, whose outputs are added, as a single convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def dilated_kernel(weight: Tensor, dilation: int) -> Tensor:
    """A dilated kernel as a dense one, with zeros between the taps: (O, I, k, k) -> (O, I, r(k-1)+1, r(k-1)+1)."""
    if dilation == 1:
        return weight
    height, width = (dilation * (k - 1) + 1 for k in weight.shape[2:])
    dense = weight.new_zeros(*weight.shape[:2], height, width)
    dense[:, :, ::dilation, ::dilation] = weight
    return dense


def centred_kernel(weight: Tensor, kernel_size: int) -> Tensor:
    """A kernel in the centre of a larger one, with zeros around it.

    The smaller convolution's padding must be smaller by (kernel_size - k) / 2, as 'same' padding is.
    """
    rows, columns = (kernel_size - k for k in weight.shape[2:])
    if rows < 0 or columns < 0 or rows % 2 or columns % 2:
        raise ValueError(
            f"a kernel of {tuple(weight.shape[2:])} has no centred place in one of {kernel_size}x{kernel_size}."
        )
    return nn.functional.pad(weight, (columns // 2, columns // 2, rows // 2, rows // 2))


@torch.no_grad()
def add_parallel_conv_(conv: nn.Conv2d, other: nn.Conv2d) -> nn.Conv2d:
    """Let ``conv`` give the sum of both outputs, in place.

    Args:
        conv: a convolution with bias, whose kernel is at least as long as the other's, dilation included.
        other: one of the same input, output, groups and stride, with 'same' padding if conv has it; unchanged.
    """
    kernel = dilated_kernel(other.weight.double(), other.dilation[0])
    total = conv.weight.double() + centred_kernel(kernel, conv.kernel_size[0])
    conv.weight.copy_(total)
    if conv.bias is not None and other.bias is not None:
        conv.bias += other.bias
    return conv


@torch.no_grad()
def scale_conv_output_(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """Multiply each output channel of a convolution by its own factor, in place."""
    factor = scale.detach().reshape(-1)
    conv.weight.mul_(factor.reshape(-1, 1, 1, 1))
    if conv.bias is not None:
        conv.bias.mul_(factor)
    return conv
