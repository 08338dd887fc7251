"""Efficient Local Attention.

Paper: ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv:2403.01123, 2024.
Official: none; AIFengheshu/Plug-play-modules, (arXiv 2024) ELA.py (EfficientLocalizationAttention), the widespread copy,
    with its constants made arguments.
Export: the strips are means that keep four axes, and the convolution along them is two-dimensional: TensorRT quantizes
    no other. Equal up to rounding.
Deviations: timm's EfficientLocalAttn has a convolution and a normalisation for each axis and is another module. The
    paper's presets are ELA-B (the defaults), ELA-T (kernel_size=5, num_groups=32), ELA-S (kernel_size=5,
    groups=channels // 8) and ELA-L (groups=channels // 8).
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_odd, require_positive, strip_means
from attn_deploy.registry import register


@register("ela", aliases=("efficient_local_attention", "efficient_localization_attention"), parameters=576)
class ELA(nn.Module):
    """Gates each position by its row's and its column's averages, each passed through one convolution along its axis.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        kernel_size: of the convolution along rows and columns, odd.
        groups: of the convolution; None is one for each channel.
        num_groups: of the GroupNorm.

    Raises:
        ValueError: if kernel_size is even, or groups or num_groups does not divide channels.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, groups: int | None = None, num_groups: int = 16) -> None:
        super().__init__()
        groups = channels if groups is None else groups
        require_positive(channels=channels, groups=groups, num_groups=num_groups)
        require_odd(kernel_size=kernel_size)
        require_divisible("channels", channels, "groups", groups)
        require_divisible("channels", channels, "num_groups", num_groups)
        self.channels = channels
        kernel, padding = (kernel_size, 1), (kernel_size // 2, 0)
        self.conv = nn.Conv2d(channels, channels, kernel, padding=padding, groups=groups, bias=False)
        self.gn = nn.GroupNorm(num_groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ELA")
        rows, columns = strip_means(x)
        rows = self.gn(self.conv(rows)).sigmoid()
        columns = self.gn(self.conv(columns.transpose(2, 3))).sigmoid()
        return x * rows * columns.transpose(2, 3)
