"""Partial self-attention of YOLO: C2PSA of YOLO11 and PSA of YOLOv10, attention over half of the channels.

Paper: YOLOv10: Real-Time End-to-End Object Detection, NeurIPS 2024, arXiv:2405.14458; C2PSA has no paper of its own.
Official: ultralytics 8.4, nn/modules/block.py (C2PSA, PSA, PSABlock, Attention).
Export: queries, keys and values are one Split with constant widths; the products are four-dimensional, heads
    beside the batch. Queries are scaled before the product, and in half precision large products are bounded. Equal up
    to rounding. Fusing folds every BatchNorm and the scale into the queries.
Deviations: psa_yolo is not the zoo's polarized self-attention, which others call PSA too. YOLO models set BatchNorm's eps
    to 1e-3 after construction; give bn_eps for their checkpoints. Inner widths of 64 and more have channels // 64 heads
    each, as the official blocks set it.
Limits: memory grows with N * heads * (H * W) ** 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, Fusible, check_channels, folded_conv, require_divisible, require_positive
from attn_deploy.ops.bounded import bounded_product_softmax
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.registry import register

_LARGE = 64.0  # how far products of features of 100 pass the range of fp16


class PSAAttention(Fusible, nn.Module):
    """Self-attention over all positions, with queries and keys half as wide as values and a depthwise position term.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_heads: heads, each with queries, keys and values of its own.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if channels is not a multiple of num_heads, or leaves less than 2 channels for each.
    """

    def __init__(self, channels: int, num_heads: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads)
        require_divisible("the width of the attention", channels, "num_heads", num_heads)
        self.channels, self.num_heads = channels, num_heads
        self.head_width = channels // num_heads
        self.key_width = int(self.head_width * 0.5)
        if self.key_width < 1:
            raise ValueError(
                f"each head needs at least 2 channels, since its keys have half of them, got {self.head_width} "
                f"({channels} channels, num_heads={num_heads}): use a wider block or fewer heads."
            )
        self.scale: float | None = self.key_width**-0.5
        self.qkv = ConvNormAct(channels, channels + 2 * self.key_width * num_heads, act=None, bn_eps=bn_eps)
        self.proj = ConvNormAct(channels, channels, act=None, bn_eps=bn_eps)
        self.pe = ConvNormAct(channels, channels, 3, groups=channels, act=None, bn_eps=bn_eps)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        if self.scale is None:
            return None
        qkv = folded_conv(self.qkv)
        for tensor in (qkv.weight, qkv.bias):
            tensor.view(self.num_heads, 2 * self.key_width + self.head_width, -1)[:, : self.key_width] *= self.scale
        self.qkv, self.scale = qkv, None
        return "folded the scale into the queries"

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        k = self.key_width
        per_head = self.qkv(x).reshape(batch, self.num_heads, 2 * k + self.head_width, height * width)
        query, key, value = split_channels(per_head, (k, k, self.head_width), axis=2)
        query = query.transpose(2, 3) if self.scale is None else query.transpose(2, 3) * self.scale
        weights = bounded_product_softmax(query, key, _LARGE)
        mixed = torch.matmul(weights, value.transpose(2, 3)).transpose(2, 3)  # the large map is not transposed
        mixed = mixed.reshape(batch, self.channels, height, width)
        return self.proj(mixed + self.pe(value.reshape(batch, self.channels, height, width)))


class PSABlock(nn.Module):
    """Attention and a feed-forward of two 1x1 convolutions, each with a shortcut.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        num_heads: of the attention.
        bn_eps: of every BatchNorm.
    """

    def __init__(self, channels: int, num_heads: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.attn = PSAAttention(channels, num_heads, bn_eps=bn_eps)
        self.ffn = nn.Sequential(
            ConvNormAct(channels, 2 * channels, bn_eps=bn_eps),
            ConvNormAct(2 * channels, channels, act=None, bn_eps=bn_eps),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class _PartialAttention(nn.Module):
    """One convolution whose first part passes and whose second part is attended to, and one that joins both."""

    def __init__(self, channels: int, e: float, bn_eps: float) -> None:
        super().__init__()
        require_positive(channels=channels)
        width = int(channels * e)
        if width < 1:
            raise ValueError(
                f"int(channels * e) must be at least 1, got channels={channels} and e={e}: use an e of at least "
                f"{1 / channels:.3g}."
            )
        self.channels, self.width, self.num_heads = channels, width, max(width // 64, 1)
        self.cv1 = ConvNormAct(channels, 2 * width, bn_eps=bn_eps)
        self.cv2 = ConvNormAct(2 * width, channels, bn_eps=bn_eps)

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define attend")

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, type(self).__name__)
        parts = self.cv1(x)
        return self.cv2(torch.cat((parts[:, : self.width], self.attend(parts[:, self.width :])), 1))


@register("c2psa", parameters=16352)
class C2PSA(_PartialAttention):
    """Sends half of the width through blocks of attention and feed-forward and joins it with the other half.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        n: number of blocks.
        e: width of a half in multiples of C.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if a half is narrower than 2 channels for each head, or not a multiple of its channels // 64 heads.
    """

    def __init__(self, channels: int, *, n: int = 1, e: float = 0.5, bn_eps: float = 1e-5) -> None:
        super().__init__(channels, e, bn_eps)
        require_positive(n=n)
        self.m = nn.Sequential(*(PSABlock(self.width, self.num_heads, bn_eps=bn_eps) for _ in range(n)))

    def attend(self, x: Tensor) -> Tensor:
        return self.m(x)


@register("psa_yolo", aliases=("yolo_psa", "partial_self_attention"), parameters=16352)
class PSA(_PartialAttention):
    """C2PSA with a single block, whose tensors are named as in YOLOv10.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        e: width of a half in multiples of C.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if a half is narrower than 2 channels for each head, or not a multiple of its channels // 64 heads.
    """

    def __init__(self, channels: int, *, e: float = 0.5, bn_eps: float = 1e-5) -> None:
        super().__init__(channels, e, bn_eps)
        block = PSABlock(self.width, self.num_heads, bn_eps=bn_eps)
        self.attn, self.ffn = block.attn, block.ffn

    def attend(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)
