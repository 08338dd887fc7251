"""Weights for models that come without any: reproducible, and with every branch alive."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

_SMALLEST_OPEN = 1e-3  # a layer scale of 1e-6 hides its branch as well as a gate at zero does
_FAINT = 0.1  # mean size of a norm's gammas, below which they were drawn as other weights are
_LITTLE = 0.5  # of a map's deviation behind a convolution
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_NORM = re.compile(r"norm|(^|[ ._])(bn|ln)\d*$", re.IGNORECASE)  # a class or a module that scales by ones at first
_ADDED = ("bias", "token", "embed", "pos", "query", "prompt", "mean")  # parts of names of what is added


def gates_of(module: nn.Module) -> tuple[str, ...]:
    """The parameters that may hide what depends on them: constant, and not a bias, an embedding or a norm's scale.

    At or near zero those of any module, such as the gamma of a norm at the end of a branch.
    """
    closed = []
    for path, child in module.named_modules():
        usual = type(child).__module__.startswith("torch.nn") or bool(_NORM.search(type(child).__name__ + " " + path))
        for name, parameter in child._parameters.items():
            if parameter is None or not parameter.is_floating_point() or parameter.numel() == 0:
                continue
            full = f"{path}.{name}" if path else name
            flat = parameter.detach().reshape(-1)
            if any(w in full.lower() for w in _ADDED) or not bool((flat == flat[0]).all()):
                continue
            if float(flat[0].abs()) < _SMALLEST_OPEN or not usual:
                closed.append(full)
    return tuple(closed)


@torch.no_grad()
def open_gates(module: nn.Module, names: Sequence[str], seed: int = 0) -> None:
    """Give the gates of that name values, in place: 0.1 to 0.3 for those at zero, half to one and a half of others' own."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name in names:
            noise = torch.rand(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.copy_(torch.where(parameter.abs() < _SMALLEST_OPEN, 0.1 + 0.2 * noise, parameter * (0.5 + noise)))


@torch.no_grad()
def enliven(module: nn.Module, seed: int = 0, *, deep: bool = False) -> nn.Module:
    """Give every constant parameter and every BatchNorm statistic of ``module`` a value of its own, in place.

    A gamma that starts at zero hides whatever it multiplies: a wrong graph behind it would pass any comparison. Weights
    that already vary are left alone, so a trained model is not touched unless it has constant tensors.

    A class names in ``distance_weights`` those of its weights that start at zero and give distances in pixels: they get
    small values, for points far outside a map would all read the same.

    Args:
        module: what is changed.
        seed: of the values.
        deep: whether branch follows on branch, as in a backbone. Gammas that start at zero then become 0.1 to 0.3, not
            0.5 to 1.5: at 1, the 16 non_local of resnet50 pile up until their softmaxes only choose, and the network
            answers a change of its input by 1e-7 with 2 % of its output, so that float32 says nothing of a graph; at
            0.2 it answers with 2e-8. Where a package draws the gammas of its norms as small as its other weights, norms
            and convolutions are scaled up: after twenty of them the network would answer every image alike, and no
            comparison could find a wrong graph.

    Returns:
        The module.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = {
        id(child.get_parameter(n)) for child in module.modules() for n in getattr(child, "distance_weights", ())
    }
    for name, parameter in module.named_parameters():
        flat = parameter.reshape(-1)
        if flat.numel() == 1 or bool((flat == flat[0]).all()):
            noise = torch.rand(parameter.shape, generator=generator)
            if id(parameter) in distances:
                parameter.copy_((noise - 0.5) / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(noise - 0.5)
            else:
                parameter.copy_(0.1 + 0.2 * noise if deep and flat[0] == 0 else 0.5 + noise)
    if deep:
        _revive_faint_(module, generator)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if child.running_mean is not None:
                child.running_mean.copy_(torch.randn(child.running_mean.shape, generator=generator) * 0.3)
            if child.running_var is not None:
                child.running_var.copy_(torch.rand(child.running_var.shape, generator=generator) + 0.5)
    return module


def _revive_faint_(module: nn.Module, generator: torch.Generator) -> None:
    """Give norms that let next to nothing through gammas of 0.5 to 1.5, and scale convolutions between them up, in place."""
    norms = [m for m in module.modules() if isinstance(m, _NORMS) and m.weight is not None]
    faint = [m for m in norms if float(m.weight.detach().abs().mean()) < _FAINT]
    for norm in faint:
        norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
    convolutions = [m for m in module.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))] if faint else []
    for convolution in convolutions:
        weight = convolution.weight
        through = float(weight.std(correction=0)) * weight[0].numel() ** 0.5
        if 0 < through < _LITTLE:
            weight.mul_(1 / through)
