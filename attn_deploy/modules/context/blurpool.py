"""BlurPool: the low-pass filter that goes before a stride, so that shifted inputs give shifted outputs.

Paper: Making Convolutional Networks Shift-Invariant Again, ICML 2019, arXiv:1904.11486.
Official: adobe/antialiased-cnns, antialiased_cnns/blurpool.py (BlurPool).
Export: Pad and one depthwise convolution; nothing had to be replaced. With zero padding that is even, the padding is in
    the convolution. Equal.
Deviations: an unknown pad_type is refused; the official code prints a line and fails later. "refl" and "repl" are taken
    too, as there. MaxBlurPool is a max pool of stride 1, then this.
Limits: reflection needs H and W above the padding: above 2 for filt_size 4 and 5, above 1 for 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_not_negative, require_positive
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.registry import register

PAD_TYPES = {
    "reflect": "reflect",
    "refl": "reflect",
    "replicate": "replicate",
    "repl": "replicate",
    "zero": "constant",
}
MAX_FILTER = 7


@register(
    "blurpool",
    aliases=("blurpool2d", "anti_aliased_downsample", "antialiased_downsample"),
    parameters=0,
    minimum={"H": "1 + filt_size // 2 + pad_off", "W": "1 + filt_size // 2 + pad_off"},
)
class BlurPool2d(nn.Module):
    """Filters each channel by a binomial kernel and takes every stride-th position.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        channels: C.
        filt_size: length of the filter, 1 to 7; 1 is the stride alone.
        stride: step between positions.
        pad_type: "reflect", "replicate" or "zero".
        pad_off: added to the padding of every side.

    Raises:
        ValueError: if filt_size is outside 1 to 7, pad_type is unknown, a number is below its least, or a map is too small
            to be reflected.
    """

    filt: Tensor

    def __init__(
        self, channels: int, *, filt_size: int = 4, stride: int = 2, pad_type: str = "reflect", pad_off: int = 0
    ) -> None:
        super().__init__()
        require_positive(channels=channels, stride=stride)
        require_choice("filt_size", filt_size, range(1, MAX_FILTER + 1))
        require_choice("pad_type", pad_type, PAD_TYPES)
        require_not_negative(pad_off=pad_off)
        self.channels, self.stride = channels, stride
        self.mode = PAD_TYPES[pad_type]
        before, after = (filt_size - 1) // 2 + pad_off, math.ceil((filt_size - 1) / 2) + pad_off
        in_conv = self.mode == "constant" and before == after
        self.padding = before if in_conv else 0
        self.pads = () if in_conv or after == 0 else (before, after, before, after)
        self.only_slices = filt_size == 1
        row = torch.tensor([float(math.comb(filt_size - 1, i)) for i in range(filt_size)])
        kernel = torch.outer(row, row) / row.sum() ** 2
        self.register_buffer("filt", kernel.expand(channels, 1, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "BlurPool2d")
        if self.pads:
            if self.mode == "reflect":
                require_least_size(
                    x, max(self.pads) + 1, "BlurPool2d", "the map is padded by reflection; use pad_type='replicate'"
                )
            x = F.pad(x, self.pads, mode=self.mode)
        if self.only_slices:
            x = F.pad(x, [self.padding] * 4) if self.padding else x
            return x[:, :, :: self.stride, :: self.stride]
        return F.conv2d(x, self.filt, stride=self.stride, padding=self.padding, groups=self.channels)
