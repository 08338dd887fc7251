"""Global filter layer of GFNet: a learned filter in the frequency domain.

Paper: Global Filter Networks for Image Classification, NeurIPS 2021, arXiv:2107.00645.
Official: raoyongming/GFNet, gfnet.py (GlobalFilter); its input is (N, H * W, C).
Export: the transforms are matrix products with constant tables: rfft2 is refused by the TorchScript exporter, and what
    the other writes for it needs opset 17 and an operator that few runtimes have. Equal up to rounding.
Limits: the filter has the size of the map, so H and W are fixed at height and width. In fp16 the tables are precise
    enough up to about 32 positions along an axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_positive
from attn_deploy.ops.fourier import dft_tables, filter_frequencies
from attn_deploy.ops.sizes import require_exact_size
from attn_deploy.registry import Input, register


@register(
    "global_filter",
    aliases=("gfnet", "global_filter_layer"),
    reference={"channels": 64, "height": 32, "width": 32},
    parameters=69632,
    inputs=(Input("x", ("N", "channels", "height", "width")),),
    dynamic=("N",),
)
class GlobalFilter(nn.Module):
    """Multiplies each channel's spectrum by a learned one: a circular convolution as large as the map.

    Shape: (N, C, height, width) -> (N, C, height, width); dynamic N.

    Args:
        channels: C.
        height: H of the map.
        width: W of the map; the weights have width // 2 + 1 columns.

    Raises:
        ValueError: if a number is below 1, or the input is of another size.
    """

    across: Tensor
    down: Tensor
    back: Tensor

    def __init__(self, channels: int, *, height: int, width: int) -> None:
        super().__init__()
        require_positive(channels=channels, height=height, width=width)
        self.channels, self.height, self.width = channels, height, width
        self.complex_weight = nn.Parameter(torch.randn(height, width // 2 + 1, channels, 2) * 0.02)
        for name, table in zip(("across", "down", "back"), dft_tables(height, width), strict=True):
            self.register_buffer(name, table.float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "GlobalFilter")
        require_exact_size(x, self.height, self.width, "GlobalFilter")
        return filter_frequencies(x, self.complex_weight.permute(3, 2, 0, 1), (self.across, self.down, self.back))
