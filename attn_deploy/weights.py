"""Weights for models that come without any: reproducible, and with every branch alive."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every constant parameter and every BatchNorm statistic of ``module`` a value of its own, in place.

    A gamma that starts at zero hides whatever it multiplies: a wrong graph behind it would pass any comparison. Weights
    that already vary are left alone, so a trained model is not touched unless it has constant tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        flat = parameter.reshape(-1)
        if flat.numel() == 1 or bool((flat == flat[0]).all()):
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(noise - 0.5 if name.endswith("bias") else noise + 0.5)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if child.running_mean is not None:
                child.running_mean.copy_(torch.randn(child.running_mean.shape, generator=generator) * 0.3)
            if child.running_var is not None:
                child.running_var.copy_(torch.rand(child.running_var.shape, generator=generator) + 0.5)
    return module
