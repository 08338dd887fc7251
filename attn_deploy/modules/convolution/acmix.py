"""ACmix: self-attention and convolution from the same projections.

Paper: On the Integration of Self-Attention and Convolution, CVPR 2022, arXiv:2111.14556.
Official: LeapLabTHU/ACmix, ResNet/test_bottleneck.py (ACmix).
Export: positions are arithmetic on arange instead of linspace, which the torch.export exporter freezes; unfold is a
    depthwise convolution with a one-hot kernel; positions are taken off the keys before their windows are cut, and their
    product with the query, which is the same over a window, is left to the softmax to cancel. Equal up to rounding.
    Fusing joins the three projections, and the layer over them with the depthwise convolution.
Deviations: dilation other than 1 is refused: officially it changes the padding only. kernel_conv other than 3 is refused:
    the official padding fits no other. The convolution's channels are ordered by place in the head and the attention's
    by head, and both are added, as in the official code.
Limits: the windows take kernel_att ** 2 * out_channels values for each position; H and W must be above kernel_att // 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_divisible, require_odd, require_positive
from attn_deploy.ops.parallel_convs import join_parallel_convs, split_channels
from attn_deploy.ops.sizes import require_least_size, require_multiple_size
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register

_AXES = ("H", "W")


@register(
    "acmix",
    reference={"in_channels": 64, "out_channels": 64},
    parameters=17822,
    multiple=dict.fromkeys(_AXES, "stride"),
    minimum=dict.fromkeys(_AXES, "kernel_att // 2 + 1"),
)
class ACmix(Fusible, nn.Module):
    """Adds attention over each position's window and a convolution, both made from the same queries, keys and values.

    Shape: (N, C_in, H, W) -> (N, C_out, H / stride, W / stride); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_att: side of the attention's window.
        num_heads: heads that C_out is cut into.
        kernel_conv: kernel of the convolution, 3.
        stride: step of both; H and W are multiples of it.
        dilation: 1.

    Raises:
        ValueError: if num_heads does not divide out_channels, kernel_att is even, kernel_conv is not 3, dilation is not 1,
            or H or W is too small for the window or not a multiple of stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_att: int = 7,
        num_heads: int = 4,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, num_heads=num_heads, stride=stride)
        require_divisible("out_channels", out_channels, "num_heads", num_heads)
        require_odd(kernel_att=kernel_att)
        require_choice("kernel_conv", kernel_conv, (3,))
        require_choice("dilation", dilation, (1,))
        self.in_channels, self.out_channels, self.num_heads = in_channels, out_channels, num_heads
        self.head_dim, self.stride, self.reach = out_channels // num_heads, stride, kernel_att // 2
        self.places = kernel_att * kernel_att
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2: nn.Parameter | None = nn.Parameter(torch.full((1,), 0.5))
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(in_channels, out_channels, 1) for _ in range(3))
        self.conv_p = nn.Conv2d(2, self.head_dim, 1)
        taps = kernel_conv * kernel_conv
        self.fc = nn.Conv2d(3 * num_heads, taps, 1, bias=False)
        self.dep_conv = nn.Conv2d(
            taps * self.head_dim,
            out_channels,
            kernel_conv,
            padding=1,
            stride=stride,
            groups=self.head_dim,
            bias=False,
        )
        with torch.no_grad():  # each tap starts as a shift to its place
            self.dep_conv.weight.copy_(
                torch.eye(taps).reshape(1, taps, kernel_conv, kernel_conv).expand_as(self.dep_conv.weight)
            )
        self.windows = Unfold(out_channels, kernel_att, stride=stride)
        self.joined: nn.Conv2d | None = None
        self.mixing: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ACmix")
        require_multiple_size(x, self.stride, "ACmix")
        require_least_size(x, max(2, self.reach + 1), "ACmix", "use a smaller kernel_att, or a larger map")
        if self.joined is not None:
            whole = self.joined(x)
        else:
            whole = torch.cat([self.conv1(x), self.conv2(x), self.conv3(x)], 1)
        attended, convolved = self._attended(whole) * self.rate1, self._convolved(whole)
        return attended + (convolved if self.rate2 is None else convolved * self.rate2)

    def _positions(self, x: Tensor) -> Tensor:
        """A vector for each position of the map: (1, 1, head_dim, H, W)."""
        along_w, along_h = (
            torch.arange(n, device=x.device).to(x.dtype) * 2 / (n - 1) - 1 for n in (x.shape[3], x.shape[2])
        )
        of_w, of_h = self.conv_p.weight.reshape(1, 1, self.head_dim, 2, 1, 1).unbind(3)
        place = of_w * along_w + of_h * along_h.unsqueeze(1)
        return place if self.conv_p.bias is None else place + self.conv_p.bias.reshape(-1, 1, 1)

    def _attended(self, whole: Tensor) -> Tensor:
        query, key, value = split_channels(whole, (self.out_channels,) * 3)
        shape = (-1, self.num_heads, self.head_dim, whole.shape[2], whole.shape[3])
        key = (key.reshape(shape) - self._positions(whole)).flatten(1, 2)
        query = query[:, :, :: self.stride, :: self.stride] * self.head_dim**-0.5
        height, width = query.shape[2], query.shape[3]
        query = query.reshape(-1, self.num_heads, self.head_dim, 1, height, width)
        keys, values = (
            self.windows(F.pad(t, (self.reach,) * 4, mode="reflect")).reshape(
                -1, self.num_heads, self.head_dim, self.places, height, width
            )
            for t in (key, value)
        )
        weights = (query * keys).sum(2, keepdim=True).softmax(3)
        return (weights * values).sum(3).reshape(-1, self.out_channels, height, width)

    def _convolved(self, whole: Tensor) -> Tensor:
        height, width = whole.shape[2], whole.shape[3]
        by_place = whole.reshape(-1, 3 * self.num_heads, self.head_dim, height * width)
        if self.mixing is not None:
            return self.mixing(by_place.transpose(1, 2).reshape(-1, 3 * self.out_channels, height, width))
        taps = self.fc(by_place).transpose(1, 2)
        return self.dep_conv(taps.reshape(-1, self.dep_conv.in_channels, height, width))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Join the projections, and multiply the layer over them, the depthwise convolution and its rate."""
        if self.joined is not None:
            return None
        self.joined = join_parallel_convs(self.conv1, self.conv2, self.conv3)
        self.mixing = nn.Conv2d(
            3 * self.out_channels,
            self.out_channels,
            3,
            padding=1,
            stride=self.stride,
            groups=self.head_dim,
            bias=False,
        )
        weight = torch.einsum("omhw,mr->orhw", self.dep_conv.weight.double(), self.fc.weight.flatten(1).double())
        self.mixing.weight = nn.Parameter((weight * self.rate2.double()).to(self.fc.weight.dtype))
        self.conv_p.bias = None  # it is the same over a window: the softmax cancels it
        self.conv1 = self.conv2 = self.conv3 = self.fc = self.dep_conv = self.rate2 = None
        return "joined three projections, merged two convolutions"
