"""Several convolutions of one input as a single convolution: one pass over the input instead of many."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def join_parallel_convs(*convs: nn.Conv2d) -> nn.Conv2d:
    """The convolution whose output is the outputs of ``convs`` one after the other along the channels.

    Args:
        convs: ungrouped convolutions with bias that agree in everything but the number of output channels; unchanged.
    """
    joined = copy.deepcopy(convs[0])
    joined.out_channels = sum(c.out_channels for c in convs)
    joined.weight = nn.Parameter(torch.cat([c.weight for c in convs]))
    joined.bias = nn.Parameter(torch.cat([c.bias for c in convs if c.bias is not None]))
    return joined


def split_channels(x: Tensor, widths: Sequence[int], axis: int = 1) -> list[Tensor]:
    """Cut axis 1, or that of each head's channels, into pieces of the given widths.

    Each piece gets its own memory, which costs no node: a matrix product of a strided piece makes torch.export ask for
    a batch above 1, and so does `contiguous`.
    """
    return [piece.clone(memory_format=torch.contiguous_format) for piece in torch.split(x, list(widths), axis)]
