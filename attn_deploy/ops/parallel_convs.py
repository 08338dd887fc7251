"""Several convolutions of one input as a single convolution: one pass over the input instead of many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def join_parallel_convs(*convs: nn.Conv2d) -> nn.Conv2d:
    """The convolution whose output is the outputs of ``convs`` one after the other along the channels.

    Args:
        convs: ungrouped convolutions with bias that agree in everything but the number of output channels; unchanged.
    """
    first = convs[0]
    joined = nn.Conv2d(
        first.in_channels,
        sum(c.out_channels for c in convs),
        first.kernel_size,
        stride=first.stride,
        padding=first.padding,
        dilation=first.dilation,
    ).to(first.weight)
    joined.weight.copy_(torch.cat([c.weight for c in convs]))
    joined.bias.copy_(torch.cat([c.bias for c in convs]))
    return joined


def split_channels(x: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Cut axis 1 into pieces of the given widths.

    Each piece gets its own memory, which costs no node: a matrix product of a strided piece makes torch.export ask for
    a batch above 1, and so does `contiguous`.
    """
    return [piece.clone(memory_format=torch.contiguous_format) for piece in x.split(list(widths), 1)]
