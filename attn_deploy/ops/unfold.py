"""The k x k neighbourhood of each position, as one depthwise convolution with a one-hot kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Unfold(nn.Module):
    """Gathers each position's k x k neighbourhood, as nn.Unfold does, but leaves a 4-D map.

    Output channel ``c * k * k + kh * k + kw`` is channel c shifted to place (kh, kw) of the window. `nn.Unfold` exports
    as a chain of gathers whose indices some exporters bake; this is one Conv node. Exact in fp32 and fp16, where one
    product in each sum is not zero; keep it out of quantisation.

    Shape: (N, C, H, W) -> (N, C * k * k, Ho, Wo); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: k.
        stride: step between the window centres.
        dilation: step between the places of a window.
        padding: zeros added on each side.
    """

    weight: Tensor

    def __init__(
        self, channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.channels, self.stride, self.dilation, self.padding = channels, stride, dilation, padding
        places = kernel_size * kernel_size
        kernel = torch.eye(places).reshape(places, 1, kernel_size, kernel_size).repeat(channels, 1, 1, 1)
        self.register_buffer("weight", kernel, persistent=False)
        self.bias: Tensor | None
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Unfold; ``bias`` (C * k * k values) is added in the same node."""
        bias = self.bias if bias is None else bias
        return F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.channels)
