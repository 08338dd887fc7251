"""Exact folding of BatchNorm into the layer before it, and the hook by which a module offers its deployed form."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

ConvT = TypeVar("ConvT", bound=nn.modules.conv._ConvNd)
_BatchNorm = nn.modules.batchnorm._BatchNorm


class Fusible:
    """A module that knows a cheaper form of itself for inference.

    `attn_deploy.fuse` calls `fuse_` on every Fusible of its own copy of the model, outermost first; whatever `fuse_`
    leaves (an nn.Sequential with Conv and BatchNorm, a Fusible child) is then treated in turn.
    """

    def fuse_(self) -> str | None:
        """Rewrite this module in place into its deployed form; say what was done, or None if nothing was left to do."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse_")


def _scale_and_shift(bn: _BatchNorm, abs_weight_eps: float | None) -> tuple[Tensor, Tensor]:
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded: it normalises by the batch.")
    weight = torch.ones_like(bn.running_mean) if bn.weight is None else bn.weight.detach()
    bias = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias.detach()
    if abs_weight_eps is not None:
        weight = weight.abs() + abs_weight_eps
    scale = weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bias - bn.running_mean * scale


@torch.no_grad()
def fold_bn_into_conv(conv: ConvT, bn: _BatchNorm, *, abs_weight_eps: float | None = None) -> ConvT:
    """A new convolution that equals ``bn(conv(x))`` in eval mode; plain, grouped, dilated and transposed kernels.

    Args:
        conv: the convolution; unchanged.
        bn: the BatchNorm after it; unchanged.
        abs_weight_eps: for In-Place ABN, whose scale is ``|weight| + eps``; give that eps.

    Raises:
        ValueError: if the BatchNorm has no running statistics, or its width is not the convolution's.
    """
    if bn.num_features != conv.out_channels:
        raise ValueError(f"BatchNorm of {bn.num_features} channels after a convolution with {conv.out_channels}.")
    scale, shift = _scale_and_shift(bn, abs_weight_eps)
    fused = copy.deepcopy(conv)
    if (
        conv.transposed
    ):  # weight is (in, out / groups, ...): output channels lie group by group along the first two axes
        per_group = conv.out_channels // conv.groups
        weight = conv.weight.reshape(conv.groups, conv.in_channels // conv.groups, per_group, -1)
        weight = weight * scale.reshape(conv.groups, 1, per_group, 1)
        fused.weight = nn.Parameter(weight.reshape(conv.weight.shape))
    else:
        fused.weight = nn.Parameter(conv.weight * scale.reshape(-1, *[1] * (conv.weight.dim() - 1)))
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias
    fused.bias = nn.Parameter(bias * scale + shift)
    return fused


@torch.no_grad()
def fold_bn_into_linear(linear: nn.Linear, bn: _BatchNorm) -> nn.Linear:
    """A new linear layer that equals ``bn(linear(x))`` in eval mode.

    Raises:
        ValueError: if the BatchNorm has no running statistics, or its width is not the layer's.
    """
    if bn.num_features != linear.out_features:
        raise ValueError(f"BatchNorm of {bn.num_features} channels after a linear layer with {linear.out_features}.")
    scale, shift = _scale_and_shift(bn, None)
    fused = nn.Linear(linear.in_features, linear.out_features, device=scale.device, dtype=scale.dtype)
    fused.weight = nn.Parameter(linear.weight * scale[:, None])
    fused.bias = nn.Parameter((0 if linear.bias is None else linear.bias) * scale + shift)
    return fused


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fold_sequential(sequence: nn.Sequential) -> int:
    """Fold every Conv or Linear directly followed by BatchNorm in a Sequential, in place; the number of folds.

    The BatchNorm's place is taken by nn.Identity, so that indices, and thus other keys, stay as they were.
    """
    folds = 0
    children = list(sequence.named_children())
    for (name, layer), (next_name, after) in itertools.pairwise(children):
        # Exact types: a subclass of Conv2d may compute anything in its forward.
        if type(after) not in _BATCH_NORMS:
            continue
        bn = cast(_BatchNorm, after)
        if bn.running_mean is None:
            continue
        if type(layer) in _CONVS and layer.out_channels == bn.num_features:
            setattr(sequence, name, fold_bn_into_conv(cast(nn.modules.conv._ConvNd, layer), bn))
        elif type(layer) is nn.Linear and layer.out_features == bn.num_features:
            setattr(sequence, name, fold_bn_into_linear(layer, bn))
        else:
            continue
        setattr(sequence, next_name, nn.Identity())
        folds += 1
    return folds


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Conv without bias, BatchNorm and (if asked) ReLU, 'same' padding by default; folds as one layer."""
    padding = dilation * (kernel_size // 2) if padding is None else padding
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)
