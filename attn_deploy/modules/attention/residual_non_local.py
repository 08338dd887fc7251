"""Residual non-local attention (RNAN): the non-local block and the residual attention blocks with and without it.

Paper: Residual Non-local Attention Networks for Image Restoration, ICLR 2019, arXiv:1903.10082.
Official: yulunzhang/RNAN, DN_RGB/code/model/common.py: NonLocalBlock2D, ResAttModuleDownUpPlus,
    NLResAttModuleDownUpPlus.
Export: the affinity is computed transposed, keys by queries, so that the official softmax over the query axis is one
    over the last axis and the result needs no transposition; no in-place sums. Fused, the three 1x1 convolutions are
    one. (W could be merged into g exactly, but would double the work of the product with the H * W x H * W map.)
Deviations: the paper normalises over keys (softmax_dim="key"); the official code, and every checkpoint, over queries.
Limits: H and W must be even for the attention blocks, whose mask is halved and doubled; memory grows with (H * W)^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_odd, require_positive
from attn_deploy.ops.parallel_convs import join_parallel_convs, split_channels
from attn_deploy.ops.sizes import require_multiple_size
from attn_deploy.registry import register

EVEN = {"multiple": {"H": 2, "W": 2}, "sizes": {"H": 18, "W": 22}}


@register("rnan_nonlocal", parameters=8352)
class RNANNonLocalBlock2d(nn.Module, Fusible):
    """Non-local block whose affinity is normalised over the queries, as RNAN's code does it.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        inter_channels: channels of the embeddings, C // 2 by default.
        softmax_dim: "query" normalises over the queries (official code), "key" over the keys (the paper).

    Raises:
        ValueError: if inter_channels < 1, or softmax_dim is unknown.
    """

    official_keys = {"g": "value", "theta": "query", "phi": "key", "W": "output"}

    def __init__(self, channels: int, *, inter_channels: int | None = None, softmax_dim: str = "query") -> None:
        super().__init__()
        require_positive(channels=channels)
        self.inter_channels = channels // 2 if inter_channels is None else inter_channels
        require_positive(inter_channels=self.inter_channels)
        require_choice("softmax_dim", softmax_dim, ("query", "key"))
        self.channels = channels
        self.softmax_dim = softmax_dim
        self.query = nn.Conv2d(channels, self.inter_channels, 1)
        self.key = nn.Conv2d(channels, self.inter_channels, 1)
        self.value = nn.Conv2d(channels, self.inter_channels, 1)
        self.output = nn.Conv2d(self.inter_channels, channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.projection: nn.Conv2d | None = None  # query, key and value, once fused

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        if self.projection is None:
            return self.query(x).flatten(2), self.key(x).flatten(2), self.value(x).flatten(2)
        return split_channels(self.projection(x).flatten(2), [self.inter_channels] * 3)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "RNANNonLocalBlock2d")
        query, key, value = self._projected(x)
        if self.softmax_dim == "query":
            attention = torch.matmul(key.transpose(1, 2), query).softmax(2)
        else:
            attention = torch.matmul(query.transpose(1, 2), key).softmax(2).transpose(1, 2)
        attended = torch.matmul(value, attention)
        return self.output(attended.reshape(x.shape[0], self.inter_channels, x.shape[2], x.shape[3])) + x

    def fuse_(self) -> str | None:
        """Join the convolutions of query, key and value."""
        if self.projection is not None:
            return None
        self.projection = join_parallel_convs(self.query, self.key, self.value)
        self.query = self.key = self.value = None
        return "joined the convolutions of query, key and value"


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, and the input added: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2) for _ in range(2))
        self.body = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class _DownUpAttention(nn.Module):
    """Trunk and mask branch of both attention blocks; ``non_local`` stands before the mask branch, or is None."""

    def __init__(self, channels: int, kernel_size: int, non_local: nn.Module | None) -> None:
        super().__init__()
        require_odd(kernel_size=kernel_size)
        block = ResidualBlock
        self.channels = channels
        self.entry = block(channels, kernel_size)
        self.trunk = nn.Sequential(block(channels, kernel_size), block(channels, kernel_size))
        self.non_local = non_local
        self.mask_entry = block(channels, kernel_size)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.mask_body = nn.Sequential(block(channels, kernel_size), block(channels, kernel_size))
        self.up = nn.ConvTranspose2d(channels, channels, 6, stride=2, padding=2)
        self.mask_exit = block(channels, kernel_size)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.tail = nn.Sequential(block(channels, kernel_size), block(channels, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, type(self).__name__)
        require_multiple_size(x, 2, type(self).__name__)
        entry = self.entry(x)
        mask = self.mask_entry(entry if self.non_local is None else self.non_local(entry))
        mask = self.mask_exit(mask + self.up(self.mask_body(self.down(mask))))
        return self.tail(self.trunk(entry) * self.gate(mask).sigmoid() + entry)


@register("rnan_res_att", parameters=853312, **EVEN)
class ResidualAttentionBlock(_DownUpAttention):
    """Local attention of RNAN: a residual trunk, gated by a mask that is computed at half resolution.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W; H and W even.

    Args:
        channels: C.
        kernel_size: kernel of the residual blocks.

    Raises:
        ValueError: if kernel_size is even, or H or W of the input is odd.
    """

    official_keys = {
        "RA_RB1.0": "entry",
        "RA_TB.0.body": "trunk",
        "RA_MB.0.MB_RB1.0": "mask_entry",
        "RA_MB.0.MB_Down.0": "down",
        "RA_MB.0.MB_RB2": "mask_body",
        "RA_MB.0.MB_Up.0": "up",
        "RA_MB.0.MB_RB3.0": "mask_exit",
        "RA_MB.0.MB_1x1conv.0": "gate",
        "RA_tail": "tail",
    }

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        require_positive(channels=channels)
        super().__init__(channels, kernel_size, None)


@register("rnan_nl_res_att", parameters=861664, **EVEN)
class NonLocalResidualAttentionBlock(_DownUpAttention):
    """Non-local attention of RNAN: as the local block, with a non-local block before the mask.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W; H and W even.

    Args:
        channels: C.
        kernel_size: kernel of the residual blocks.
        softmax_dim: axis of the non-local softmax, "query" (official code) or "key" (the paper).

    Raises:
        ValueError: if channels < 2, kernel_size is even, softmax_dim is unknown, or H or W of the input is odd.
    """

    official_keys = {
        **ResidualAttentionBlock.official_keys,
        "RA_MB.0.MB_RB1.0.g": "non_local.value",
        "RA_MB.0.MB_RB1.0.theta": "non_local.query",
        "RA_MB.0.MB_RB1.0.phi": "non_local.key",
        "RA_MB.0.MB_RB1.0.W": "non_local.output",
        "RA_MB.0.MB_RB1.1": "mask_entry",
    }

    def __init__(self, channels: int, *, kernel_size: int = 3, softmax_dim: str = "query") -> None:
        super().__init__(channels, kernel_size, RNANNonLocalBlock2d(channels, softmax_dim=softmax_dim))
