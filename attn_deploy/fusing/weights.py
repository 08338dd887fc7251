"""Weights that are computed from others at every call (weight norm, spectral norm), computed once."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# At inference these are functions of their parameters; what somebody else registers may be anything.
_KNOWN = {
    parametrizations._WeightNorm: "weight norm",
    parametrizations._SpectralNorm: "spectral norm",
    parametrizations._Orthogonal: "the orthogonal parametrization",
}


def bake_weights_(model: nn.Module) -> list[tuple[str, str]]:
    """Replace known parametrizations by the tensor they give, in place, and say where."""
    changes = []
    for path, module in list(model.named_modules()):
        done = [*_bake_parametrizations_(module), *_bake_hooks_(module)]
        changes += [(path, words) for words in done]
    return changes


@torch.no_grad()
def _bake_parametrizations_(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    tensors = cast(nn.ModuleDict, module.parametrizations)
    norms = {name: [_KNOWN.get(type(s)) for s in cast(nn.ModuleList, steps)] for name, steps in tensors.items()}
    if not all(all(words) for words in norms.values()):
        return []
    values = {name: cast(torch.Tensor, getattr(module, name)).detach().clone() for name in norms}
    # torch's remove_parametrizations takes the property off the class, which the caller's module shares with this copy.
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))
    return [f"computed {' and '.join(cast(list[str], words))} of {name!r} once" for name, words in norms.items()]


def _bake_hooks_(module: nn.Module) -> list[str]:
    done = []
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
            done.append(f"computed weight norm of {hook.name!r} once")
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            done.append(f"computed spectral norm of {hook.name!r} once")
    return done
