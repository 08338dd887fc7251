"""Gathering whole regions of each sample by an index of its own, as one Gather of rows."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_regions(regions: Tensor, index: Tensor) -> Tensor:
    """The chosen regions of each sample, one after the other: (N, R, T, C), (N, S, k) -> (N, S, k * T, C).

    `torch.gather` would take an index as large as its result, which exporters bake. Here the batch is folded into the
    row.

    Args:
        regions: R regions of T rows.
        index: of k regions for each of S receivers, int64.
    """
    batch, count, channels = regions.shape[0], regions.shape[1], regions.shape[3]
    first = (torch.arange(batch, device=index.device) * count).reshape(-1, 1, 1)
    chosen = regions.flatten(0, 1).index_select(0, (index + first).flatten())
    return chosen.reshape(batch, index.shape[1], -1, channels)
