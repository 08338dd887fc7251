"""A2C2f of YOLOv12: a block whose attention stays within equal parts of the map.

Paper: YOLOv12: Attention-Centric Real-Time Object Detectors, NeurIPS 2025, arXiv:2502.12524.
Official: ultralytics 8.4, nn/modules/block.py (A2C2f, ABlock, AAttn).
Export: the parts are an axis of five-dimensional products, so the batch is never merged with a symbol; queries, keys and
    values are one Split with constant widths. Queries are scaled before the product, and in half precision large products
    are bounded. Equal up to rounding. Fusing folds every BatchNorm, and the scale into the
    queries.
Deviations: the authors' repository sunsmarterjie/yolov12 has another attention (queries and keys apart from values, a 5x5
    position term): other keys, other numbers. residual needs in_channels equal to out_channels, which the official code
    only finds out when it runs. YOLO models set BatchNorm's eps to 1e-3 after construction; give bn_eps for their
    checkpoints.
Limits: H * W must be a multiple of area; a file exported with dynamic axes is for an H that is one. Memory grows with
    N * heads * (H * W) ** 2 / area.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.modules.convolution.c3 import C3, hidden_width
from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    check_channels,
    folded_conv,
    is_traced,
    require_positive,
)
from attn_deploy.ops.bounded import bounded_product_softmax
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.registry import register

HEAD_WIDTH = 32
_LARGE = 64.0  # how far products of features of 100 pass the range of fp16


class AreaAttention(Fusible, nn.Module):
    """Self-attention within each of several equal parts of the positions, row by row, with a depthwise position term.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W with H * W a multiple of area.

    Args:
        channels: C.
        num_heads: heads, each with queries, keys and values of its own.
        area: number of parts.
        bn_eps: of every BatchNorm.
    """

    def __init__(self, channels: int, num_heads: int, *, area: int = 1, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.num_heads, self.area = channels, num_heads, area
        self.head_width = channels // num_heads
        self.scale: float | None = self.head_width**-0.5
        self.qkv = ConvNormAct(channels, 3 * channels, act=None, bn_eps=bn_eps)
        self.proj = ConvNormAct(channels, channels, act=None, bn_eps=bn_eps)
        self.pe = ConvNormAct(channels, channels, 7, groups=channels, act=None, bn_eps=bn_eps)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        if self.scale is None:
            return None
        qkv = folded_conv(self.qkv)
        for tensor in (qkv.weight, qkv.bias):
            tensor.view(self.num_heads, 3 * self.head_width, -1)[:, : self.head_width] *= self.scale
        self.qkv, self.scale = qkv, None
        return "folded the scale into the queries"

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if not is_traced() and height * width % self.area:
            raise ValueError(
                f"AreaAttention: H * W must be a multiple of area, got {height}x{width} and area={self.area}: pad the "
                f"map, or use area=1."
            )
        d = self.head_width
        rows = self.qkv(x).reshape(batch, self.num_heads, 3 * d, self.area, height * width // self.area)
        pieces = split_channels(rows, (d, d, d), axis=2)
        positions = pieces[2].reshape(batch, self.channels, height, width)
        query, key, value = (piece.transpose(2, 3) for piece in pieces)  # (N, heads, area, d, H * W / area)
        query = query.transpose(3, 4) if self.scale is None else query.transpose(3, 4) * self.scale
        weights = bounded_product_softmax(query, key, _LARGE)
        mixed = torch.matmul(weights, value.transpose(3, 4)).permute(0, 1, 4, 2, 3)
        mixed = mixed.reshape(batch, self.channels, height, width)
        return self.proj(mixed + self.pe(positions))


class AreaBlock(nn.Module):
    """Area attention and a feed-forward of two 1x1 convolutions, each with a shortcut.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W with H * W a multiple of area.

    Args:
        channels: C.
        num_heads: of the attention.
        mlp_ratio: width of the feed-forward in multiples of C.
        area: number of parts of the map.
        bn_eps: of every BatchNorm.
    """

    def __init__(
        self, channels: int, num_heads: int, *, mlp_ratio: float = 2.0, area: int = 1, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        width = int(channels * mlp_ratio)
        require_positive(**{"int(width * mlp_ratio)": width})
        self.attn = AreaAttention(channels, num_heads, area=area, bn_eps=bn_eps)
        self.mlp = nn.Sequential(
            ConvNormAct(channels, width, bn_eps=bn_eps), ConvNormAct(width, channels, act=None, bn_eps=bn_eps)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


@register(
    "a2c2f",
    aliases=("a2_c2f", "yolov12_block"),
    reference={"in_channels": 64, "out_channels": 64, "area": 4},
    parameters=26880,
    multiple={"H": "area"},
)
class A2C2f(nn.Module):
    """Sends half of the width through pairs of area attention blocks, one after the other, and joins every output.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W with H * W a multiple of area.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of pairs of blocks.
        a2: area attention; without it each pair is a C3 with two bottlenecks of 3x3 convolutions.
        area: number of parts of the map that attention stays in.
        residual: add the input to the output, which is scaled by a learned gamma for each channel; only with a2.
        mlp_ratio: width of the feed-forwards in multiples of the inner width.
        e: inner width in multiples of C_out.
        groups: of the C3 blocks.
        shortcut: of the C3 blocks.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if the inner width is not a multiple of 32, residual is asked for with other widths, a number is
            below 1, or H * W is not a multiple of area.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n: int = 1,
        a2: bool = True,
        area: int = 1,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        e: float = 0.5,
        groups: int = 1,
        shortcut: bool = True,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, n=n, area=area)
        width = hidden_width(out_channels, e)
        if width % HEAD_WIDTH:
            raise ValueError(
                f"int(out_channels * e) must be a multiple of {HEAD_WIDTH}, the width of a head, got "
                f"out_channels={out_channels} and e={e}: use out_channels={max(1, round(width / HEAD_WIDTH)) * 64} with "
                f"e=0.5."
            )
        if a2 and residual and in_channels != out_channels:
            raise ValueError(
                f"residual=True adds the input to the output, got in_channels={in_channels} and "
                f"out_channels={out_channels}: make them equal, or use residual=False."
            )
        self.in_channels = in_channels
        self.residual = a2 and residual
        self.gamma: nn.Parameter | None = nn.Parameter(0.01 * torch.ones(out_channels)) if self.residual else None
        self.cv1 = ConvNormAct(in_channels, width, bn_eps=bn_eps)
        self.cv2 = ConvNormAct((1 + n) * width, out_channels, bn_eps=bn_eps)

        def block() -> nn.Module:
            if not a2:
                return C3(width, width, n=2, shortcut=shortcut, groups=groups, kernel_sizes=(3, 3), bn_eps=bn_eps)
            heads = width // HEAD_WIDTH
            return nn.Sequential(
                *(AreaBlock(width, heads, mlp_ratio=mlp_ratio, area=area, bn_eps=bn_eps) for _ in range(2))
            )

        self.m = nn.ModuleList(block() for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "A2C2f")
        maps = [self.cv1(x)]
        for block in self.m:
            maps.append(block(maps[-1]))
        y = self.cv2(torch.cat(maps, 1))
        return x + y * self.gamma.reshape(-1, 1, 1) if self.gamma is not None else y
