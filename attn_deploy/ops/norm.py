"""Normalisations from primitive operators, for opsets that lack the fused operator and for fp16.

The mean is subtracted before squaring: the sum of squares of a map with a large mean leaves the range of fp16.
"""

from __future__ import annotations

from torch import Tensor


def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the channels of each position: (N, C, H, W) -> (N, C, H, W); weight and bias hold C values.

    `nn.LayerNorm([C, 1, 1])` on a pooled vector is this. LayerNormalization enters ONNX at opset 17 only.
    """
    centred = x - x.mean(1, keepdim=True)
    variance = (centred * centred).mean(1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample to zero mean and unit variance over H, W (biased variance): shape kept."""
    centred = x - x.mean((2, 3), keepdim=True)
    variance = (centred * centred).mean((2, 3), keepdim=True)
    return centred / (variance + eps).sqrt()
