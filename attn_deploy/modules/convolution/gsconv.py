"""GSConv and the slim neck made of it: GSBottleneck and VoVGSCSP.

Paper: Slim-neck by GSConv: A lightweight-design for real-time detector architectures, Journal of Real-Time Image Processing
    2024, arXiv:2206.02424.
Official: AlanLi1997/slim-neck-by-gsconv, models_inPaper.py (Mish, channels interleaved), gsconv-yolov5/models/common.py
    (Mish, even channels before odd ones) and gsconv-yolov8_9_10_11 (SiLU, interleaved).
Export: channels are interleaved by a stack and de-interleaved by strided slices; the official reshape over batch and
    channels fixes sizes in the TorchScript exporter. Fused, every shuffle between convolutions is a permutation of their
    weights, and no operator. Equal.
Deviations: odd widths are refused, where the official code gives one channel less. VoVGSCSP's official layer `res` is never
    used: its weights are dropped (9280 of 24864 parameters at 64 channels). The VoVGSCSP of the YOLOv8 folder, rebuilt on
    C2f, and GSConvns, which returns a module instead of a tensor, are left out. YOLO trains with BatchNorm eps 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    check_channels,
    fold_sequential,
    require_activation,
    require_choice,
    require_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register

SHUFFLES = ("interleave", "deinterleave")
VARIANTS = ("yolov5", "paper")
_REFERENCE = {"in_channels": 64, "out_channels": 64}


@register("gsconv", reference=_REFERENCE, parameters=2976)
class GSConv(nn.Module):
    """Makes half of its channels with a convolution, the others with depthwise 5x5 filters on those, and shuffles both.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the first convolution.
        stride: step of the first convolution.
        groups: groups of channels of the first convolution.
        act: name of the activation behind both convolutions, or None.
        shuffle: "interleave" alternates the channels of both halves; "deinterleave" puts the even channels of the two,
            one half after the other, before the odd ones.
        bn_eps: of both BatchNorms.

    Raises:
        ValueError: if out_channels is odd, kernel_size even, groups does not divide in_channels or out_channels / 2, or
            act or shuffle is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "silu",
        shuffle: str = "interleave",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_odd(kernel_size=kernel_size)
        require_divisible("out_channels", out_channels, "the number of halves", 2)
        half = out_channels // 2
        require_divisible("in_channels", in_channels, "groups", groups)
        require_divisible("out_channels // 2", half, "groups", groups)
        require_activation("act", act)
        require_choice("shuffle", shuffle, SHUFFLES)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.shuffle: str | None = shuffle
        self.cv1 = ConvNormAct(in_channels, half, kernel_size, stride=stride, groups=groups, act=act, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(half, half, 5, groups=half, act=act, bn_eps=bn_eps)

    def without_shuffle_(self) -> Tensor:
        """Leave the shuffle out from now on: the order in which it took the channels, for what reads them."""
        channels = torch.arange(self.out_channels)
        pairs = channels.reshape(2, -1) if self.shuffle == "interleave" else channels.reshape(-1, 2)
        order = channels if self.shuffle is None else pairs.transpose(0, 1).flatten()
        self.shuffle = None
        return order

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "GSConv")
        first = self.cv1(x)
        second = self.cv2(first)
        if self.shuffle == "interleave":
            return torch.stack([first, second], 2).flatten(1, 2)
        both = torch.cat([first, second], 1)
        return both if self.shuffle is None else torch.cat([both[:, 0::2], both[:, 1::2]], 1)


@register("gs_bottleneck", reference=_REFERENCE, parameters=15856)
class GSBottleneck(Fusible, nn.Module):
    """Adds two GSConvs, the second without activation, to a 1x1 convolution of the map.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        e: width between the GSConvs as a share of C_out.
        act: name of the activation in the first GSConv, or None.
        shuffle: as in GSConv.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if out_channels or int(out_channels * e) is odd or below 2, or act or shuffle is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        e: float = 0.5,
        act: str | None = "mish",
        shuffle: str = "deinterleave",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        hidden = int(out_channels * e)
        if hidden < 2 or hidden % 2:
            raise ValueError(
                f"int(out_channels * e) must be even and at least 2, got out_channels={out_channels} and e={e}, which "
                f"give {hidden}: GSConv makes its channels in two halves."
            )
        self.in_channels = in_channels
        self.conv_lighting = nn.Sequential(
            GSConv(in_channels, hidden, act=act, shuffle=shuffle, bn_eps=bn_eps),
            GSConv(hidden, out_channels, kernel_size=3, act=None, shuffle=shuffle, bn_eps=bn_eps),
        )
        self.shortcut = ConvNormAct(in_channels, out_channels, bn_eps=bn_eps, act=None)

    def fuse_(self) -> str | None:
        """Let the second GSConv read the channels of the first as they come."""
        first, second = self.conv_lighting
        if first.shuffle is None:
            return None
        _take_inputs_(second.cv1.conv, first.without_shuffle_())
        return "folded a channel shuffle into the next convolution"

    def without_shuffle_(self) -> Tensor:
        """Leave the last shuffle out too, as `GSConv.without_shuffle_`; for inference only."""
        order = self.conv_lighting[1].without_shuffle_()
        fold_sequential(self.shortcut)
        _give_outputs_(self.shortcut.conv, order)
        return order

    def take_inputs_(self, order: Tensor) -> None:
        """Read a map whose channels come without the shuffle that took them in this order."""
        _take_inputs_(self.conv_lighting[0].cv1.conv, order)
        _take_inputs_(self.shortcut.conv, order)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "GSBottleneck")
        return self.conv_lighting(x) + self.shortcut(x)


@register("vovgscsp", aliases=("slim_neck",), reference=_REFERENCE, parameters=15584)
class VoVGSCSP(Fusible, nn.Module):
    """A cross-stage block with GSBottlenecks on one path, a 1x1 convolution on the other, and a 1x1 over both.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of GSBottlenecks; the paper's variant has one whatever n is.
        e: width of both paths as a share of C_out.
        variant: "yolov5" (de-interleaved, full-width bottlenecks) or "paper" (interleaved, half-width).
        act: name of the activation, or None.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if n is below 1, a width that GSConv halves is odd, or variant or act is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        e: float = 0.5,
        variant: str = "yolov5",
        act: str | None = "mish",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, n=n)
        require_choice("variant", variant, VARIANTS)
        require_activation("act", act)
        width = int(out_channels * e)
        if width < 2 or width % 2:
            raise ValueError(
                f"int(out_channels * e) must be even and at least 2, got out_channels={out_channels} and e={e}, which "
                f"give {width}: GSConv makes its channels in two halves."
            )
        paper = variant == "paper"
        shuffle, hidden = ("interleave", 0.5) if paper else ("deinterleave", 1.0)
        # The paper's file holds its one bottleneck without a number.
        self.official_keys = {"res": None, "gsb": "gsb.0"} if paper else {"res": None}
        self.in_channels, self.width = in_channels, width
        self.cv1 = ConvNormAct(in_channels, width, act=act, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(in_channels, width, act=act, bn_eps=bn_eps)
        self.gsb = nn.Sequential(
            *(
                GSBottleneck(width, width, e=hidden, act=act, shuffle=shuffle, bn_eps=bn_eps)
                for _ in range(1 if paper else n)
            )
        )
        self.cv3 = ConvNormAct(2 * width, out_channels, act=act, bn_eps=bn_eps)

    def fuse_(self) -> str | None:
        """Fold every channel shuffle into the convolutions that read it."""
        blocks = list(self.gsb)
        if all(block.conv_lighting[1].shuffle is None for block in blocks):
            return None
        for block, reader in zip(blocks, [*blocks[1:], None], strict=True):
            block.fuse_()
            order = block.without_shuffle_()
            if reader is not None:
                reader.take_inputs_(order)
            else:  # the last one reads both paths, the other one first
                _take_inputs_(self.cv3.conv, torch.cat([torch.arange(self.width), order + self.width]))
        return f"folded {2 * len(blocks)} channel shuffles into the next convolutions"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "VoVGSCSP")
        return self.cv3(torch.cat([self.cv2(x), self.gsb(self.cv1(x))], 1))


@torch.no_grad()
def _take_inputs_(conv: nn.Conv2d, order: Tensor) -> None:
    """Make ``conv`` give for x what it gave for x[:, order]."""
    conv.weight.copy_(conv.weight[:, order.argsort()])


@torch.no_grad()
def _give_outputs_(conv: nn.Conv2d, order: Tensor) -> None:
    """Make ``conv`` give y such that y[:, order] is what it gave."""
    inverse = order.argsort()
    conv.weight.copy_(conv.weight[inverse])
    conv.bias.copy_(conv.bias[inverse])
