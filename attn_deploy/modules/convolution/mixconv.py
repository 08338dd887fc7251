"""MixConv.

Paper: MixConv: Mixed Depthwise Convolutional Kernels, BMVC 2019, arXiv:1907.09595.
Official: huggingface/pytorch-image-models, timm/layers/mixed_conv2d.py (MixedConv2d); the split is that of
    tensorflow/tpu, models/official/mnasnet/mixnet/custom_layers.py.
Export: channels are split by slices with static bounds. TF-SAME padding at stride > 1 depends on the size of the map:
    the map is padded by the constant maximum and the surplus rows and columns are sliced off. Equal.
Deviations: YOLO-era collections let every branch read all input channels, which is not depthwise (72,768 parameters
    for 64 channels instead of 1,752).
Limits: padding="same" needs dilation * (kernel_size - 1) + 1 >= stride for every kernel, or a kernel of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, pad_same, require_choice, require_positive
from attn_deploy.registry import register


@register(
    "mixconv",
    aliases=("mixconv2d", "mixed_conv2d", "mdconv"),
    reference={"in_channels": 64, "out_channels": 64, "kernel_size": (3, 5, 7), "depthwise": True},
    parameters=1752,
)
class MixedConv2d(nn.Module):
    """Splits the channels into groups and gives each its own kernel size.

    Shape: (N, C, H, W) -> (N, out_channels, H', W') with the H' and W' of nn.Conv2d; dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_size: one kernel size, or one for each group of channels.
        stride: of every convolution.
        padding: "" for symmetric padding, "same" for TensorFlow's, which puts the odd row or column at the end.
        dilation: of every convolution.
        depthwise: whether each convolution is depthwise, rather than dense within its group.
        bias: whether the convolutions have a bias.

    Raises:
        ValueError: if there are fewer channels than kernels, a depthwise branch would have no whole multiple of its
            input channels, the branches would differ in size, or padding is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | Sequence[int] = 3,
        stride: int = 1,
        padding: str = "",
        dilation: int = 1,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        kernels = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride, dilation=dilation)
        require_positive(**{f"kernel_size[{i}]": k for i, k in enumerate(kernels)})
        require_choice("padding", padding, ("", "same"))
        count = len(kernels)
        if count < 1 or min(in_channels, out_channels) < count:
            raise ValueError(
                f"every kernel needs a channel of its own, got kernel_size={kernels} for in_channels={in_channels} and "
                f"out_channels={out_channels}: use at least 1 and at most {min(in_channels, out_channels)} kernels."
            )
        extents = [dilation * (k - 1) + 1 for k in kernels]
        if padding == "" and len({e % 2 for e in extents}) > 1:
            raise ValueError(
                f"kernel_size={kernels} mixes odd and even kernels, whose maps differ in size: use odd ones, or "
                'padding="same".'
            )
        if padding == "same" and any(1 < e < stride for e in extents):
            raise ValueError(
                f'padding="same" needs dilation * (kernel_size - 1) + 1 >= stride, got kernel_size={kernels}, '
                f"dilation={dilation} and stride={stride}: use a smaller stride or larger kernels."
            )
        self.in_channels = in_channels
        self.stride = stride
        self.same = padding == "same"
        inputs, outputs = _split(in_channels, count), _split(out_channels, count)
        self.bounds = [0, *accumulate(inputs)]
        self.convs = nn.ModuleList()
        for kernel, extent, taken, produced in zip(kernels, extents, inputs, outputs, strict=True):
            if depthwise and produced % taken:
                raise ValueError(
                    f"a depthwise branch needs a whole number of filters for each channel, got in_channels="
                    f"{in_channels} and out_channels={out_channels}, which gives a branch {taken} -> {produced}: use "
                    f"out_channels={in_channels}, or depthwise=False."
                )
            self.convs.append(
                nn.Conv2d(
                    taken,
                    produced,
                    kernel,
                    stride=stride,
                    padding=0 if self.same else (stride + extent - 2) // 2,
                    dilation=dilation,
                    groups=taken if depthwise else 1,
                    bias=bias,
                )
            )

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"convs.{key}": value for key, value in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "MixedConv2d")
        maps = []
        for conv, (start, end) in zip(self.convs, pairwise(self.bounds), strict=True):
            part = x[:, start:end]
            if self.same:
                part = pad_same(part, conv.kernel_size[0], stride=self.stride, dilation=conv.dilation[0])
            maps.append(conv(part))
        return torch.cat(maps, 1)


def _split(channels: int, count: int) -> list[int]:
    """Equal shares, the remainder to the first."""
    share = channels // count
    return [channels - share * (count - 1)] + [share] * (count - 1)
