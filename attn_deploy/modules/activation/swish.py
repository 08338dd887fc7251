"""Swish, also known as SiLU.

Paper: Searching for Activation Functions, ICLR Workshop 2018, arXiv:1710.05941.
Official: huggingface/pytorch-image-models, timm/layers/activations.py (swish); beta is the paper's.
Export: Sigmoid and Mul, which every opset has (a Swish operator exists from opset 24 only). Equal.
Deviations: collections write x.mul_(x.sigmoid()), which overwrites the caller's tensor, or an autograd.Function
    ("memory-efficient swish"), which no exporter reads; autograd of this form is the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.registry import Input, register


@register(
    "swish",
    aliases=("silu", "memory_efficient_swish", "wish"),
    reference={},
    parameters=0,
    inputs=(Input("x", ("N", 64, "H", "W")),),
)
class Swish(nn.Module):
    """Multiplies each value by the sigmoid of itself.

    Shape: any; shape kept.

    Args:
        beta: slope inside the sigmoid; 1 gives SiLU.
        learnable: whether beta is a parameter, one for the whole module.

    Raises:
        ValueError: if beta is not finite.
    """

    def __init__(self, *, beta: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if not math.isfinite(beta):
            raise ValueError(f"beta must be a finite number, got {beta}: use 1.0 for SiLU.")
        self.beta: float | nn.Parameter = nn.Parameter(torch.tensor(float(beta))) if learnable else float(beta)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.beta, float) and self.beta == 1.0:
            return x * x.sigmoid()
        return x * (x * self.beta).sigmoid()
