"""Omni-dimensional dynamic convolution: a kernel gated along its inputs, outputs, taps and copies, for each sample.

Paper: Omni-Dimensional Dynamic Convolution, ICLR 2022, arXiv:2209.07947.
Official: OSVAI/ODConv, modules/odconv.py (ODConv2d).
Export: the official code runs the batch as groups of one convolution, which no exporter takes with a dynamic batch. Here the
    kernels are mixed by a product, the gated map is unrolled along its rows by slices with constant bounds, one batched
    product serves all columns of the kernel, and its parts are shifted and summed; one 1x1 kernel is a plain convolution
    between two gates. Fused, the BatchNorm and the temperature are gone. Equal up to rounding.
Deviations: the padding is dilation * (kernel_size // 2) unless given, where the official class has 0 by default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    global_avg_pool,
    require_convolution,
    require_not_negative,
)
from attn_deploy.ops.expert_conv import arranged_kernels, convolved
from attn_deploy.registry import register


class KernelAttention(nn.Module):
    """The four gates of a kernel from the global averages of the map.

    Shape: (N, C_in, H, W) -> four gates, each None where the kernel has no such axis: of inputs (N, C_in, 1, 1), outputs
    (N, C_out, 1, 1), taps (N, k * k, 1, 1), and weights of the copies (N, kernel_num, 1, 1).

    Args:
        in_channels: C_in.
        out_channels: C_out.
        hidden: width between the averages and the gates.
        taps: k * k.
        kernel_num: number of copies.
        depthwise: whether each output reads its own input only, so that one gate serves for both.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden: int, taps: int, kernel_num: int, depthwise: bool
    ) -> None:
        super().__init__()
        self.fc = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(hidden)
        self.channel_fc = nn.Conv2d(hidden, in_channels, 1)
        self.filter_fc = None if depthwise else nn.Conv2d(hidden, out_channels, 1)
        self.spatial_fc = None if taps == 1 else nn.Conv2d(hidden, taps, 1)
        self.kernel_fc = None if kernel_num == 1 else nn.Conv2d(hidden, kernel_num, 1)
        for layer in (self.fc, *self.heads()):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def heads(self) -> list[nn.Conv2d]:
        """The layers that give the gates, of those that there are."""
        return [h for h in (self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc) if h is not None]

    def forward(self, x: Tensor, temperature: float) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        z = self.bn(self.fc(global_avg_pool(x))).relu()

        def logits(head: nn.Conv2d) -> Tensor:
            return head(z) if temperature == 1 else head(z) / temperature

        channel = logits(self.channel_fc).sigmoid()
        outputs = None if self.filter_fc is None else logits(self.filter_fc).sigmoid()
        taps = None if self.spatial_fc is None else logits(self.spatial_fc).sigmoid()
        copies = None if self.kernel_fc is None else logits(self.kernel_fc).softmax(1)
        return channel, outputs, taps, copies


@register(
    "odconv",
    aliases=("omni_dimensional_dynamic_conv", "od_conv2d"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=150909,
)
class ODConv2d(Fusible, nn.Module):
    """Convolves each sample with a sum of kernels that is gated along every axis by the sample itself.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k.
        stride: step of the window.
        padding: zeros on every side; None is dilation * (k // 2).
        dilation: distance of the taps.
        groups: groups of channels.
        reduction: width of the attention's hidden layer as a share of C_in, a ratio; it is at least 16 wide.
        kernel_num: number of kernels that are mixed.
        temperature: divides the logits of the gates; annealed from 30 or so to 1 in training, where it is set as an
            attribute.

    Raises:
        ValueError: if a number is below its least, groups does not divide the channels, or reduction or temperature is
            not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        reduction: float = 0.0625,
        kernel_num: int = 4,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        require_convolution(
            in_channels,
            out_channels,
            groups,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            kernel_num=kernel_num,
        )
        for name, value in (("reduction", reduction), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}: 1/16 and 1 are the official values.")
        padding = dilation * (kernel_size // 2) if padding is None else padding
        require_not_negative(padding=padding)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.kernel_num, self.temperature = kernel_num, temperature
        taps = kernel_size * kernel_size
        self.attention = KernelAttention(
            in_channels,
            out_channels,
            hidden=max(int(in_channels * reduction), 16),
            taps=taps,
            kernel_num=kernel_num,
            depthwise=in_channels == groups == out_channels,
        )
        shape = (kernel_num, out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        for kernel in self.weight.data:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold the BatchNorm into the attention's first layer, and the temperature into its heads."""
        attention, words = self.attention, []
        if isinstance(attention.bn, nn.BatchNorm2d):
            attention.fc = fold_bn_into_conv(attention.fc, attention.bn)
            attention.bn = nn.Identity()
            words.append("folded the BatchNorm")
        if self.temperature != 1:
            for head in attention.heads():
                head.weight.copy_(head.weight.double() / self.temperature)
                head.bias.copy_(head.bias.double() / self.temperature)
            self.temperature = 1.0
            words.append("folded the temperature")
        return " and ".join(words) or None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ODConv2d")
        channel, outputs, taps, copies = self.attention(x, self.temperature)
        gated = x * channel
        y = self._one_kernel(gated) if taps is None and copies is None else self._mixed(gated, taps, copies)
        return y if outputs is None else y * outputs

    def _one_kernel(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[0], None, self.stride, self.padding, self.dilation, self.groups)

    def _mixed(self, x: Tensor, taps: Tensor | None, copies: Tensor | None) -> Tensor:
        side, inputs, outputs = self.kernel_size, self.in_channels // self.groups, self.out_channels // self.groups
        weight = self.weight.reshape(self.kernel_num, self.groups, outputs, inputs, side, side)
        weight = arranged_kernels(weight, self.stride)
        kernels = weight if copies is None else torch.matmul(copies.flatten(1), weight.flatten(1))
        kernels = kernels.reshape(-1, *weight.shape[1:])
        if taps is not None:
            kernels = kernels * arranged_kernels(taps.reshape(-1, 1, 1, 1, side, side), self.stride)
        if self.padding:
            x = F.pad(x, (self.padding,) * 4)
        maps = x.reshape(x.shape[0], self.groups, inputs, x.shape[2], x.shape[3])
        return convolved(maps, kernels, side, stride=self.stride, dilation=self.dilation).flatten(1, 2)
