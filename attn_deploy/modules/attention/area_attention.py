"""Area attention of YOLOv12, and the transformer block around it.

Paper: YOLOv12: Attention-Centric Real-Time Object Detectors, NeurIPS 2025, arXiv:2502.12524.
Official: sunsmarterjie/yolov12, ultralytics/nn/modules/block.py (AAttn without flash attention, ABlock);
    layout="ultralytics" for the weights of the ultralytics package's YOLO12.
Export: tokens are never moved into the batch: areas are an axis of their own before that of the positions, and channels
    stay first, so that two transpositions remain. Fusing folds every BatchNorm, makes one convolution of queries, keys
    and values in either layout, and puts the scale into the queries. Equal up to rounding.
Deviations: YOLO trains with BatchNorm eps 1e-3, set over the whole network; give bn_eps for such checkpoints. The alias
    a2 is that of double attention.
Limits: memory grows with the square of H * W / area.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_sequential,
    require_choice,
    require_divisible,
    require_positive,
)
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import register

LAYOUTS = ("yolov12", "ultralytics")
_ROWS = {"H": "area"}  # an area is a band of rows


def _conv_bn(in_channels: int, out_channels: int, eps: float, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=eps),
    )


def _keys(prefix: str, *names: str) -> dict[str, str]:
    parts = {"conv": "0", "bn": "1"}
    return {f"{prefix}{name}.{part}": f"{prefix}{name}.{index}" for name in names for part, index in parts.items()}


@register(
    "area_attention",
    aliases=("aattn", "area_attn"),
    reference={"channels": 64, "num_heads": 2, "area": 4},
    parameters=18624,
    multiple=_ROWS,
)
class AreaAttention(Fusible, nn.Module):
    """Lets positions attend to each other inside bands of the map, and adds a depthwise convolution of the values.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W; H is a multiple of area in an exported file.

    Args:
        channels: C.
        num_heads: heads that C is cut into.
        area: number of bands of equal length, in row-major order.
        layout: "yolov12", or "ultralytics" with one convolution for queries, keys and values and a 7x7 depthwise one.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if num_heads does not divide channels, layout is unknown, or area does not divide H * W.
    """

    official_keys = _keys("", "qk", "v", "qkv", "pe", "proj")

    def __init__(
        self, channels: int, *, num_heads: int, area: int = 1, layout: str = "yolov12", bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads, area=area)
        require_divisible("channels", channels, "num_heads", num_heads)
        require_choice("layout", layout, LAYOUTS)
        self.channels, self.num_heads, self.area, self.layout = channels, num_heads, area, layout
        self.head_dim = channels // num_heads
        self.qk = self.v = self.qkv = None
        if layout == "yolov12":
            self.qk = _conv_bn(channels, 2 * channels, bn_eps)
            self.v = _conv_bn(channels, channels, bn_eps)
        else:
            self.qkv = _conv_bn(channels, 3 * channels, bn_eps)
        self.pe = _conv_bn(channels, channels, bn_eps, 5 if layout == "yolov12" else 7, channels)
        self.proj = _conv_bn(channels, channels, bn_eps)
        self.joined: nn.Conv2d | None = None

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.joined is not None:
            query, key, value = split_channels(self.joined(x), (self.channels,) * 3)
            return query, key, value
        if self.qkv is None:
            query, key = split_channels(self.qk(x), (self.channels,) * 2)
            return query * self.head_dim**-0.5, key, self.v(x)
        heads = self.qkv(x).reshape(-1, self.num_heads, 3 * self.head_dim, x.shape[2], x.shape[3])
        query, key, value = (
            t.reshape(-1, self.channels, x.shape[2], x.shape[3]) for t in torch.split(heads, self.head_dim, 2)
        )
        return query * self.head_dim**-0.5, key, value

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AreaAttention")
        if sizes_are_known() and x.shape[2] * x.shape[3] % self.area:
            raise ValueError(
                f"AreaAttention: H * W must be a multiple of area, got {x.shape[2]}x{x.shape[3]} and area={self.area}: "
                f"pad the height to {-(-x.shape[2] // self.area) * self.area}."
            )
        maps = self._queries_keys_values(x)
        query, key, value = (self._by_area(t) for t in maps)
        weights = torch.matmul(query.transpose(-2, -1), key).softmax(-1)
        mixed = torch.matmul(weights, value.transpose(-2, -1)).transpose(-2, -1)  # the large map is not transposed
        if self.area > 1:
            mixed = mixed.transpose(2, 3)
        mixed = mixed.reshape(-1, self.channels, x.shape[2], x.shape[3])
        return self.proj(mixed + self.pe(maps[2]))

    def _by_area(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, area, C / heads, H * W / area), without the axis of areas where there is one."""
        if self.area == 1:
            return x.reshape(x.shape[0], self.num_heads, self.head_dim, -1)
        return x.reshape(x.shape[0], self.num_heads, self.head_dim, self.area, -1).transpose(2, 3)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution for queries, keys and values, in this order, with the scale in the queries."""
        if self.joined is not None:
            return None
        layers = [s for s in (self.qk, self.v, self.qkv) if s is not None]
        for layer in layers:
            fold_sequential(layer)
        weight = torch.cat([layer[0].weight for layer in layers])
        bias = torch.cat([layer[0].bias for layer in layers])
        if self.qkv is not None:
            rows = torch.arange(3 * self.channels).reshape(self.num_heads, 3, self.head_dim).transpose(0, 1).flatten()
            weight, bias = weight[rows], bias[rows]
        weight[: self.channels] *= self.head_dim**-0.5
        bias[: self.channels] *= self.head_dim**-0.5
        self.joined = nn.Conv2d(self.channels, 3 * self.channels, 1)
        self.joined.weight, self.joined.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.qk = self.v = self.qkv = None
        return "joined queries, keys and values in one convolution"


@register(
    "area_attention_block",
    aliases=("ablock",),
    reference={"channels": 64, "num_heads": 2, "area": 4},
    parameters=28632,
    multiple=_ROWS,
)
class AreaAttentionBlock(nn.Module):
    """Area attention and a two-layer perceptron, each added to its input.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W; H is a multiple of area in an exported file.

    Args:
        channels: C.
        num_heads: heads that C is cut into.
        mlp_ratio: width of the perceptron's hidden layer over C, rounded down.
        area: number of bands of equal length, in row-major order.
        layout: as in AreaAttention.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if num_heads does not divide channels, mlp_ratio leaves no channel, layout is unknown, or area does
            not divide H * W.
    """

    official_keys = {**_keys("attn.", "qk", "v", "qkv", "pe", "proj"), **_keys("mlp.", "0", "1")}

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        mlp_ratio: float = 1.2,
        area: int = 1,
        layout: str = "yolov12",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.attn = AreaAttention(channels, num_heads=num_heads, area=area, layout=layout, bn_eps=bn_eps)
        hidden = int(channels * mlp_ratio)
        if hidden < 1:
            raise ValueError(
                f"mlp_ratio must leave a channel, got channels={channels} and mlp_ratio={mlp_ratio}: use at least "
                f"{1 / channels:.3g}."
            )
        self.channels = channels
        expand, project = _conv_bn(channels, hidden, bn_eps), _conv_bn(hidden, channels, bn_eps)
        self.mlp = nn.Sequential(nn.Sequential(*expand, nn.SiLU()), project)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AreaAttentionBlock")
        x = x + self.attn(x)
        return x + self.mlp(x)
