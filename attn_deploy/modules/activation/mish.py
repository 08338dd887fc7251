"""Mish.

Paper: Mish: A Self Regularized Non-Monotonic Activation Function, BMVC 2020, arXiv:1908.08681.
Official: huggingface/pytorch-image-models, timm/layers/activations.py (mish), as digantamisra98/Mish.
Export: Softplus, Tanh and Mul, so that one graph serves every opset (a Mish operator enters at 18). Equal.
Deviations: collections write x.mul_(...), which overwrites the caller's tensor.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.registry import Input, register


@register("mish", reference={}, parameters=0, inputs=(Input("x", ("N", 64, "H", "W")),))
class Mish(nn.Module):
    """Multiplies each value by the hyperbolic tangent of its softplus.

    Shape: any; shape kept.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * F.softplus(x).tanh()
