"""Models and inputs that differ in their last bit: what float32 makes of a model, more than once.

How far a model in float32 is from itself in float64 is one draw of its rounding. Where large scores meet a softmax the draws
differ tenfold, and a graph that rounds in another order, as every runtime does, is one more draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attn_deploy.inputs.tensors import Arrays

if TYPE_CHECKING:
    from torch import nn


def neighbouring_module(module: nn.Module, seed: int, steps: int = 1) -> nn.Module:
    """A copy whose weights in float32 are each the next number above or below; zeros, and what is not finite, stay.

    Args:
        module: left alone.
        seed: of the directions.
        steps: so many numbers above or below.
    """
    import torch

    from attn_deploy.fusing.copying import copy_model

    copied = copy_model(module, share_parameters=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            if type(parameter) is not torch.nn.Parameter or parameter.dtype != torch.float32 or parameter.is_meta:
                continue  # other kinds of parameters are shared with the model as they are
            values = parameter.detach()
            up = torch.randint(0, 2, values.shape, generator=generator).bool().to(values.device)
            far = torch.full_like(values, torch.inf)
            towards, moved = torch.where(up, far, -far), values
            for _ in range(steps):
                moved = torch.nextafter(moved, towards)
            parameter.copy_(torch.where((values != 0) & values.isfinite(), moved, values))
    return copied


def neighbouring_arrays(arrays: Arrays, seed: int, steps: int = 1) -> Arrays:
    """Inputs whose values in float32 are each so many numbers above or below; zeros, and what is not finite, stay."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, array in arrays.items():
        if array.dtype != np.float32:
            moved[name] = array
            continue
        towards = np.where(rng.random(array.shape) < 0.5, np.float32(np.inf), np.float32(-np.inf))
        changes, further = (array != 0) & np.isfinite(array), array
        for _ in range(steps):
            further = np.nextafter(further, towards, dtype=np.float32)
        moved[name] = np.where(changes, further, array)
    return moved
