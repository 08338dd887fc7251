"""Stochastic depth: a residual branch that is left out of some samples in training."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Zero the whole branch of a sample with probability ``rate`` in training, and scale what is kept by 1 / (1 - rate)."""
    if not training or rate == 0.0:
        return branch
    kept = torch.rand((len(branch), *[1] * (branch.dim() - 1)), device=branch.device) >= rate
    return branch * kept / (1 - rate)
