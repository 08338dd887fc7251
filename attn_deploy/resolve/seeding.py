"""Weights for models that come without any: reproducible, and with every branch alive."""

from __future__ import annotations

import torch
from torch import nn


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
            0.2 it answers with 2e-8.

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
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if child.running_mean is not None:
                child.running_mean.copy_(torch.randn(child.running_mean.shape, generator=generator) * 0.3)
            if child.running_var is not None:
                child.running_var.copy_(torch.rand(child.running_var.shape, generator=generator) + 0.5)
    return module
