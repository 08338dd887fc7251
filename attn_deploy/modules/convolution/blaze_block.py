"""BlazeBlock, single and double.

Paper: BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, CVPR Workshop 2019, arXiv:1907.05047.
Official: no training code was published. The trainable form follows tkat0/PyTorch_BlazeFace, and tflite=True the weights
    of MediaPipe as hollance/BlazeFace-PyTorch, blazeface.py, reads them.
Export: the skip is added to the first channels by slices and Concat instead of being padded with zero channels. Equal.
    Fusing folds every BatchNorm.
Deviations: the two forms pad differently at stride 2 (TensorFlow's SAME starts at the first pixel), so that weights of
    one must not be used in the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, is_traced, require_choice, require_odd, require_positive
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}
_STRIDED = dict.fromkeys(("H", "W"), "1 + residual * (stride - 1)")  # the skip's pooling and the convolution must agree


@register("blaze_block", reference=_REFERENCE, parameters=6080, multiple=_STRIDED)
@register(
    "double_blaze_block",
    reference={**_REFERENCE, "mid_channels": 24},
    parameters=5800,
    multiple=_STRIDED,
    summary="Two depthwise separable convolutions with a narrow middle and a skip around both.",
)
class BlazeBlock(nn.Module):
    """A depthwise separable convolution with a large kernel and a skip, once or twice.

    Shape: (N, C, H, W) -> (N, out_channels, H / stride, W / stride); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output, at least C where there is a skip.
        mid_channels: channels between the two halves of a double block; None for a single one.
        stride: 1 or 2; 2 needs even H and W.
        kernel_size: of the depthwise convolutions, None for 5, or 3 with tflite.
        tflite: MediaPipe's form: no BatchNorm, and TensorFlow's padding at stride 2.
        residual: whether there is a skip; MediaPipe's last block has none.

    Raises:
        ValueError: if stride is neither 1 nor 2, kernel_size is even, out_channels < in_channels with a skip,
            mid_channels is given with tflite, or H or W is odd at stride 2 with a skip.
    """

    official_keys = {"conv1": "first", "conv2": "second", "convs": "first"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int | None = None,
        stride: int = 1,
        kernel_size: int | None = None,
        tflite: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_choice("stride", stride, (1, 2))
        kernel = kernel_size if kernel_size is not None else (3 if tflite else 5)
        require_odd(kernel_size=kernel)
        if residual and out_channels < in_channels:
            raise ValueError(
                f"the skip needs out_channels >= in_channels, got out_channels={out_channels} and "
                f"in_channels={in_channels}: use out_channels={in_channels} or more, or residual=False."
            )
        if tflite and mid_channels is not None:
            raise ValueError(
                f"MediaPipe's form has single blocks only, got mid_channels={mid_channels} and tflite=True: leave one out."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.residual = residual
        self.pad = (kernel - 2) // 2, kernel - 1 - (kernel - 2) // 2
        self.tensorflow_padding = tflite and stride == 2

        def separable(taken: int, given: int, step: int) -> list[nn.Module]:
            padding = 0 if self.tensorflow_padding else kernel // 2
            depthwise = nn.Conv2d(taken, taken, kernel, stride=step, padding=padding, groups=taken)
            pointwise = nn.Conv2d(taken, given, 1)
            if tflite:
                return [depthwise, pointwise]
            return [depthwise, nn.BatchNorm2d(taken), pointwise, nn.BatchNorm2d(given)]

        if mid_channels is None:
            self.first = nn.Sequential(*separable(in_channels, out_channels, stride))
            self.second = nn.Identity()
        else:
            require_positive(mid_channels=mid_channels)
            self.first = nn.Sequential(*separable(in_channels, mid_channels, stride))
            self.second = nn.Sequential(nn.ReLU(), *separable(mid_channels, out_channels, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "BlazeBlock")
        if not is_traced() and self.residual and self.stride == 2 and (x.shape[2] % 2 or x.shape[3] % 2):
            raise ValueError(
                f"BlazeBlock: stride=2 with a skip needs an even height and width, got {x.shape[2]}x{x.shape[3]}: pad "
                "the map, or use residual=False."
            )
        before, after = self.pad
        h = self.second(self.first(F.pad(x, (before, after, before, after)) if self.tensorflow_padding else x))
        if not self.residual:
            return h.relu()
        skip = F.max_pool2d(x, 2) if self.stride == 2 else x
        if self.out_channels == self.in_channels:
            return (h + skip).relu()
        return torch.cat([h[:, : self.in_channels] + skip, h[:, self.in_channels :]], 1).relu()
