"""Initial weights that several official implementations share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def fan_out_normal_(modules: Iterable[nn.Module]) -> None:
    """Normal weights with the deviation sqrt(2 / fan_out) and zero biases for each convolution, in place.

    fan_out is the kernel's area times the output channels of one group.
    """
    for conv in modules:
        if isinstance(conv, (nn.Conv1d, nn.Conv2d)):
            fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
            conv.weight.normal_(0.0, math.sqrt(2.0 / fan_out))
            if conv.bias is not None:
                conv.bias.zero_()
