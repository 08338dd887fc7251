"""Asymmetric non-local blocks: APNB and AFNB.

Paper: Asymmetric Non-local Neural Networks for Semantic Segmentation, ICCV 2019, arXiv:1908.07678.
Official: MendelXu/ANN, models/seg/utils/apnb.py and afnb.py, with BatchNorm.
Export: the pyramid's adaptive pooling is one product along each axis with weights built in the graph
    (nn.AdaptiveAvgPool2d is refused or baked at dynamic H, W). Values are pooled before their 1x1 convolution, equal
    because pooling weights sum to 1.
    Fused, the context convolution is merged into the last one.
Deviations: mmseg's ann_head drops the biases of the convolutions before BatchNorm and the dropout.
Limits: sizes other than (1,) are refused; the official code cannot run them (APNB) or ignores them (AFNB).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_positive
from attn_deploy.ops.pyramid import PyramidAveragePool
from attn_deploy.registry import Input, register


class _AsymmetricNonLocal(nn.Module, Fusible):
    """What APNB and AFNB share: attention from every position to the cells of a pyramid of averages."""

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        out_channels: int,
        key_channels: int | None,
        value_channels: int | None,
        sizes: tuple[int, ...],
        psp_size: tuple[int, ...],
    ) -> None:
        super().__init__()
        require_positive(out_channels=out_channels)
        key_channels = high_channels // 2 if key_channels is None else key_channels
        value_channels = high_channels // 2 if value_channels is None else value_channels
        require_positive(key_channels=key_channels, value_channels=value_channels)
        if tuple(sizes) != (1,):
            raise ValueError(
                f"sizes must be (1,), got {tuple(sizes)}: the official block pools its input at other scales and never "
                "resizes the result. Use sizes=(1,)."
            )
        if not psp_size:
            raise ValueError("psp_size must name at least one grid, got (): the published one is (1, 3, 6, 8).")
        require_positive(**{f"psp_size[{i}]": n for i, n in enumerate(psp_size)})
        self.value_channels = value_channels
        self.scale = key_channels**-0.5
        self.pool = PyramidAveragePool(psp_size)
        self.key = self._embedding(low_channels, key_channels)
        self.value = nn.Conv2d(low_channels, value_channels, 1)
        self.context: nn.Conv2d | None = nn.Conv2d(value_channels, out_channels, 1)
        nn.init.zeros_(self.context.weight)
        nn.init.zeros_(self.context.bias)

    @staticmethod
    def _embedding(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU())

    def _attended(self, query: Tensor, key: Tensor, low: Tensor) -> Tensor:
        """The context of every query position; as values, where the context convolution is merged into the tail."""
        weights = self.pool.weights(low)
        keys = self.pool(key, weights) * self.scale
        values = self.value(self.pool(low, weights).unsqueeze(3)).flatten(2)
        similarity = torch.matmul(query.flatten(2).transpose(1, 2), keys).softmax(2)
        attended = torch.matmul(values, similarity.transpose(1, 2))
        attended = attended.reshape(query.shape[0], self.value_channels, query.shape[2], query.shape[3])
        return attended if self.context is None else self.context(attended)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Merge the context convolution into the context half of the tail's convolution."""
        if self.context is None:
            return None
        last: nn.Conv2d = self.tail[0]
        width = self.context.out_channels
        own, rest = last.weight[:, :width].flatten(1), last.weight[:, width:]
        merged = torch.matmul(own, self.context.weight.flatten(1)).unsqueeze(2).unsqueeze(3)
        conv = nn.Conv2d(merged.shape[1] + rest.shape[1], last.out_channels, 1).to(last.weight)
        conv.weight.copy_(torch.cat([merged, rest], 1))
        conv.bias.copy_(last.bias + torch.mv(own, self.context.bias))
        self.tail[0] = conv
        self.context = None
        return "merged the context convolution into the last one"


@register(
    "apnb",
    aliases=("asymmetric_pyramid_nonlocal",),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=14720,
)
class APNB(_AsymmetricNonLocal):
    """Attends from every position to a pyramid of averages of the same map, and merges what it finds with the map.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: must be C too.
        key_channels: channels of keys and queries, C // 2 by default (the paper: 256 for 512).
        value_channels: channels of the values, C // 2 by default.
        dropout: probability of dropping a channel of the output while training.
        sizes: scales of the official block; only (1,) works.
        psp_size: grids of the pyramid.

    Raises:
        ValueError: if out_channels is not in_channels, sizes is not (1,), a grid or a width is below 1.
    """

    official_keys = {
        "stages.0.f_key.0": "key.0",
        "stages.0.f_key.1.0": "key.1",
        "stages.0.f_query": None,  # the same module as f_key
        "stages.0.f_value": "value",
        "stages.0.W": "context",
        "conv_bn_dropout.0": "tail.0",
        "conv_bn_dropout.1.0": "tail.1",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        dropout: float = 0.05,
        sizes: tuple[int, ...] = (1,),
        psp_size: tuple[int, ...] = (1, 3, 6, 8),
    ) -> None:
        require_positive(in_channels=in_channels)
        if out_channels != in_channels:
            raise ValueError(
                f"out_channels must equal in_channels, got out_channels={out_channels} and in_channels={in_channels}: "
                "the last convolution takes context and input as 2 * in_channels. Use the same for both."
            )
        super().__init__(in_channels, in_channels, out_channels, key_channels, value_channels, sizes, psp_size)
        self.in_channels = in_channels
        conv = nn.Conv2d(2 * in_channels, out_channels, 1)
        self.tail = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "APNB")
        key = self.key(x)
        return self.tail(torch.cat([self._attended(key, key, x), x], 1))


@register(
    "afnb",
    aliases=("asymmetric_fusion_nonlocal",),
    reference={"low_in_channels": 64, "high_in_channels": 64, "out_channels": 64},
    parameters=16864,
    inputs=(Input("low", ("N", "low_in_channels", "HL", "WL")), Input("high", ("N", "high_in_channels", "H", "W"))),
    dynamic=("N", "HL", "WL", "H", "W"),
    sizes={"HL": 33, "WL": 45},
)
class AFNB(_AsymmetricNonLocal):
    """Attends from every position of a high-level map to a pyramid of averages of a low-level map.

    Shape: low (N, C_low, H_low, W_low), high (N, C_high, H, W) -> (N, C_out, H, W); all of N, H, W dynamic.

    Args:
        low_in_channels: C_low.
        high_in_channels: C_high.
        out_channels: C_out.
        key_channels: channels of keys and queries, C_high // 2 by default.
        value_channels: channels of the values, C_high // 2 by default.
        dropout: probability of dropping a channel of the output while training.
        sizes: scales of the official block; only (1,) works.
        psp_size: grids of the pyramid.

    Raises:
        ValueError: if sizes is not (1,), a grid or a width is below 1.
    """

    official_keys = {
        "stages.0.f_key.0": "key.0",
        "stages.0.f_key.1.0": "key.1",
        "stages.0.f_query.0": "query.0",
        "stages.0.f_query.1.0": "query.1",
        "stages.0.f_value": "value",
        "stages.0.W": "context",
        "conv_bn_dropout.0": "tail.0",
        "conv_bn_dropout.1": "tail.1",
    }

    def __init__(
        self,
        low_in_channels: int,
        high_in_channels: int,
        out_channels: int,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        dropout: float = 0.05,
        sizes: tuple[int, ...] = (1,),
        psp_size: tuple[int, ...] = (1, 3, 6, 8),
    ) -> None:
        require_positive(low_in_channels=low_in_channels, high_in_channels=high_in_channels)
        super().__init__(low_in_channels, high_in_channels, out_channels, key_channels, value_channels, sizes, psp_size)
        self.low_in_channels = low_in_channels
        self.high_in_channels = high_in_channels
        self.query = self._embedding(high_in_channels, self.key[0].out_channels)
        conv = nn.Conv2d(out_channels + high_in_channels, out_channels, 1)
        self.tail = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.Dropout2d(dropout))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        check_channels(low, self.low_in_channels, "AFNB, first input")
        check_channels(high, self.high_in_channels, "AFNB, second input")
        return self.tail(torch.cat([self._attended(self.query(high), self.key(low), low), high], 1))
