"""Exact folding of BatchNorm into the layer beside it, and the hook by which a module offers its deployed form."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

ConvT = TypeVar("ConvT", bound=nn.modules.conv._ConvNd)
LayerT = TypeVar("LayerT", bound=nn.Module)
_BatchNorm = nn.modules.batchnorm._BatchNorm

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_PLAIN_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Fusible:
    """A module that knows a cheaper form of itself for inference.

    `attn_deploy.fuse` calls `fuse_` on every Fusible of its own copy of the model, outermost first; whatever `fuse_`
    leaves (an nn.Sequential with Conv and BatchNorm, a Fusible child) is then treated in turn.
    """

    def fuse_(self) -> str | None:
        """Rewrite this module in place into its deployed form; say what was done, or None if nothing was left to do."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse_")


def fuse_conv_bn(layer: nn.Module, bn: nn.Module) -> nn.Module:
    """A new layer of the same class that equals ``bn(layer(x))`` at inference.

    Args:
        layer: a convolution (grouped, dilated, transposed) or nn.Linear; unchanged.
        bn: the BatchNorm after it, in eval mode; unchanged.

    Raises:
        ValueError: if ``bn`` is in training mode, has no running statistics or another width than the layer, or if
            either is of a class that cannot be folded.
    """
    if not isinstance(bn, _BATCH_NORMS):
        raise ValueError(f"bn must be a BatchNorm1d, 2d or 3d, got {type(bn).__name__}.")
    if bn.training:
        raise ValueError("bn is in training mode, where it normalises by the batch: call eval() on the model first.")
    if isinstance(layer, nn.Linear):
        return fold_bn_into_linear(layer, bn)
    if isinstance(layer, _CONVS):
        return fold_bn_into_conv(layer, bn)
    raise ValueError(f"layer must be a convolution or nn.Linear, got {type(layer).__name__}.")


def fold_bn_(module: nn.Module) -> int:
    """Fold every BatchNorm that directly follows a convolution or linear layer in an nn.Sequential inside ``module``.

    In place, and for inference only; `attn_deploy.fuse` does more, on a copy.

    Returns:
        The number of BatchNorms folded.

    Raises:
        ValueError: if the module is in training mode.
    """
    if module.training:
        raise ValueError(
            f"{type(module).__name__} is in training mode, where BatchNorm normalises by the batch: call eval() first."
        )
    return sum(fold_sequential(m) for m in list(module.modules()) if isinstance(m, nn.Sequential))


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
    scale, shift = scale_and_shift(bn, abs_weight_eps=abs_weight_eps, dtype=torch.float64)
    weight = conv.weight.double()
    if conv.transposed:
        # The weight is (in, out / groups, ...): output channels lie group by group along the first two axes.
        per_group = conv.out_channels // conv.groups
        grouped = weight.reshape(conv.groups, conv.in_channels // conv.groups, per_group, -1)
        weight = (grouped * scale.reshape(conv.groups, 1, per_group, 1)).reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    bias = 0.0 if conv.bias is None else conv.bias.double()
    return _with_weights(conv, weight, bias * scale + shift)


@torch.no_grad()
def fold_bn_into_linear(linear: nn.Linear, bn: _BatchNorm) -> nn.Linear:
    """A new linear layer that equals ``bn(linear(x))`` in eval mode.

    Raises:
        ValueError: if the BatchNorm has no running statistics, or its width is not the layer's.
    """
    if bn.num_features != linear.out_features:
        raise ValueError(f"BatchNorm of {bn.num_features} channels after a linear layer with {linear.out_features}.")
    scale, shift = scale_and_shift(bn, dtype=torch.float64)
    bias = 0.0 if linear.bias is None else linear.bias.double()
    return _with_weights(linear, linear.weight.double() * scale[:, None], bias * scale + shift)


@torch.no_grad()
def fold_bn_before_conv(bn: _BatchNorm, conv: ConvT) -> ConvT:
    """A new convolution that equals ``conv(bn(x))`` in eval mode.

    Only where the convolution does not pad: the zeros of the padding stand for normalised values, and a folded
    BatchNorm would shift them too.

    Raises:
        ValueError: if the convolution pads or is transposed, or the BatchNorm has no running statistics or another
            width.
    """
    if not isinstance(conv, _PLAIN_CONVS):
        raise ValueError(f"cannot fold a BatchNorm forward into {type(conv).__name__}: give a plain convolution.")
    if conv.padding == "same" or (conv.padding != "valid" and any(conv.padding)):
        raise ValueError(
            f"a BatchNorm before a convolution with padding={conv.padding} cannot be folded, the border would differ: "
            "keep it, or use a convolution without padding."
        )
    if bn.num_features != conv.in_channels:
        raise ValueError(f"BatchNorm of {bn.num_features} channels before a convolution with {conv.in_channels}.")
    scale, shift = scale_and_shift(bn, dtype=torch.float64)
    per_group = conv.in_channels // conv.groups
    weight = conv.weight.double().reshape(conv.groups, conv.out_channels // conv.groups, per_group, -1)
    bias = (weight * shift.reshape(conv.groups, 1, per_group, 1)).sum((2, 3)).reshape(-1)
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    weight = (weight * scale.reshape(conv.groups, 1, per_group, 1)).reshape(conv.weight.shape)
    return _with_weights(conv, weight, bias)


def fold_sequential(sequence: nn.Sequential) -> int:
    """Fold every Conv or Linear directly followed by BatchNorm in a Sequential, in place; the number of folds.

    The BatchNorm's place is taken by nn.Identity, so that indices, and thus other keys, stay as they were.
    """
    folds = 0
    children = list(sequence.named_children())
    for (name, layer), (next_name, after) in itertools.pairwise(children):
        # Exact types: a subclass of Conv2d may compute anything in its forward. So may a layer with hooks.
        if type(after) not in _BATCH_NORMS or _hooked(layer) or _hooked(after):
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


def scale_and_shift(
    bn: _BatchNorm, *, abs_weight_eps: float | None = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The two vectors by which ``bn(x)`` is ``scale * x + shift`` at inference.

    Args:
        bn: the BatchNorm.
        abs_weight_eps: for In-Place ABN, whose scale is ``|weight| + eps``; give that eps.
        dtype: of the result; that of the statistics by default. They are computed in float64: folded twice, float32
            would lose a digit.

    Raises:
        ValueError: if the BatchNorm has no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded: it normalises by the batch.")
    mean, variance = bn.running_mean.double(), bn.running_var.double()
    weight = torch.ones_like(mean) if bn.weight is None else bn.weight.detach().double()
    bias = torch.zeros_like(mean) if bn.bias is None else bn.bias.detach().double()
    if abs_weight_eps is not None:
        weight = weight.abs() + abs_weight_eps
    scale = weight / torch.sqrt(variance + bn.eps)
    dtype = dtype or bn.running_mean.dtype
    return scale.to(dtype), (bias - mean * scale).to(dtype)


def _with_weights(layer: LayerT, weight: Tensor, bias: Tensor) -> LayerT:
    """A copy of ``layer`` with these weights, in the type of its own."""
    folded = copy.deepcopy(layer).eval()
    dtype = cast(Tensor, layer.weight).dtype
    folded.weight = nn.Parameter(weight.to(dtype))
    folded.bias = nn.Parameter(bias.to(dtype))
    return folded


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
