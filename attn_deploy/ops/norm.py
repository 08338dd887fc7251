"""Normalisations in the forms that export best.

Where one is spelled out, the mean is subtracted before squaring: the sum of squares of a map with a large mean leaves
the range of fp16.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the channels of pooled vectors: (N, C, 1, 1) -> (N, C, 1, 1); weight and bias hold C values.

    One LayerNormalization from opset 17 on; below, both exporters' graphs get its primitive operators.
    """
    shape = (weight.numel(), 1, 1)
    return F.layer_norm(x, shape, weight.reshape(shape), bias.reshape(shape), eps)


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample to zero mean and unit variance over H, W (biased variance): shape kept."""
    centred = x - x.mean((2, 3), keepdim=True)
    variance = (centred * centred).mean((2, 3), keepdim=True)
    return centred / (variance + eps).sqrt()
