"""Merging the parallel branches of a re-parameterised block into the kernel of one convolution.

Everything here is exact algebra on constants, done in float64: sums of folded kernels cancel, and a rounding before the sum
would be a rounding of the result.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from attn_deploy.ops.folding import scale_and_shift

BatchNorm = nn.modules.batchnorm._BatchNorm
Kernel = tuple[Tensor, Tensor]  # weight (O, I / groups, k, k) and bias (O), both float64


@torch.no_grad()
def folded_kernel(conv: nn.Conv2d, bn: nn.Module | None = None) -> Kernel:
    """Weight and bias of ``bn(conv(x))`` as one convolution.

    Args:
        conv: the convolution.
        bn: the BatchNorm after it; None, or an nn.Identity where it was folded before, leaves the convolution as it is.
    """
    bias = torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    kernel = (conv.weight.double(), bias if conv.bias is None else conv.bias.double())
    return normalised_kernel(kernel, bn) if isinstance(bn, BatchNorm) else kernel


@torch.no_grad()
def normalised_kernel(kernel: Kernel, bn: BatchNorm) -> Kernel:
    """The kernel with a BatchNorm after it folded in."""
    scale, shift = scale_and_shift(bn, dtype=torch.float64)
    weight, bias = kernel
    return weight * scale.reshape(-1, 1, 1, 1), bias * scale + shift


def identity_kernel(channels: int, groups: int, kernel_size: int, like: Tensor) -> Tensor:
    """The kernel, without bias, of a convolution that returns its input."""
    weight = torch.zeros(
        channels, channels // groups, kernel_size, kernel_size, dtype=torch.float64, device=like.device
    )
    index = torch.arange(channels)
    weight[index, index % (channels // groups), kernel_size // 2, kernel_size // 2] = 1.0
    return weight


def identity_bn_kernel(bn: BatchNorm, groups: int, kernel_size: int) -> Kernel:
    """A branch that is a BatchNorm alone, as a convolution."""
    weight = identity_kernel(bn.num_features, groups, kernel_size, bn.weight)
    return normalised_kernel((weight, weight.new_zeros(bn.num_features)), bn)


def average_kernel(channels: int, groups: int, kernel_size: int, like: Tensor) -> Tensor:
    """The kernel, without bias, of average pooling that counts the zeros of the padding."""
    centre = identity_kernel(channels, groups, 1, like)
    return centre.expand(-1, -1, kernel_size, kernel_size) / kernel_size**2


def widened(kernel: Kernel, kernel_size: int) -> Kernel:
    """The same function as a larger odd kernel, zeros around, for a padding that grows by the same number of pixels."""
    margin = (kernel_size - kernel[0].shape[2]) // 2
    return nn.functional.pad(kernel[0], (margin, margin, margin, margin)), kernel[1]


def chained_kernel(pointwise: Kernel, spatial: Kernel, groups: int) -> Kernel:
    """``spatial`` after ``pointwise``, a 1x1 convolution with as many groups, as one kernel.

    Exact where ``spatial`` does not pad, or pads with what ``pointwise`` makes of 0.
    """
    (first, first_bias), (second, second_bias) = pointwise, spatial
    middle, out_channels = second.shape[1], second.shape[0]
    by_group = second.reshape(groups, out_channels // groups, middle, -1)
    mixed = torch.einsum("gomk,gmi->goik", by_group, first.reshape(groups, middle, -1))
    shift = (by_group.sum(3) * first_bias.reshape(groups, 1, middle)).sum(2).reshape(-1)
    return mixed.reshape(out_channels, -1, *second.shape[2:]), second_bias + shift


@torch.no_grad()
def convolution_of(kernels: list[Kernel], like: nn.Conv2d) -> nn.Conv2d:
    """The convolution whose kernel is the sum, with the channels, stride, padding and groups of ``like``."""
    weight, bias = torch.stack([k[0] for k in kernels]).sum(0), torch.stack([k[1] for k in kernels]).sum(0)
    layer: type[Any] = nn.Conv2d  # torch's stubs want pairs where the layer keeps tuples
    conv: nn.Conv2d = layer(
        like.in_channels,
        like.out_channels,
        like.kernel_size,
        stride=like.stride,
        padding=like.padding,
        groups=like.groups,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    conv.weight.copy_(weight)
    cast(Tensor, conv.bias).copy_(bias)
    return conv.eval()


@torch.no_grad()
def merged_with_identity(
    dense: nn.Conv2d,
    dense_bn: nn.Module,
    pointwise: nn.Conv2d,
    pointwise_bn: nn.Module,
    identity: BatchNorm | None,
) -> tuple[nn.Conv2d, str]:
    """RepVGG's three branches as one convolution, and the words that say so.

    Args:
        dense: convolution of the 3x3 branch.
        dense_bn: its BatchNorm.
        pointwise: convolution of the 1x1 branch.
        pointwise_bn: its BatchNorm.
        identity: the BatchNorm on the input; None where the block has none.
    """
    kernels = [folded_kernel(dense, dense_bn), widened(folded_kernel(pointwise, pointwise_bn), 3)]
    if identity is not None:
        kernels.append(identity_bn_kernel(identity, dense.groups, 3))
    return convolution_of(kernels, dense), f"merged {len(kernels)} branches into one convolution"
