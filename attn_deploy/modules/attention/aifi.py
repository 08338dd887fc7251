"""Attention-based intra-scale feature interaction (AIFI), the transformer encoder layer of RT-DETR.

Paper: DETRs Beat YOLOs on Real-time Object Detection, CVPR 2024, arXiv:2304.08069.
Official: ultralytics, nn/modules/transformer.py (AIFI, TransformerEncoderLayer); the maths of lyuwenyu/RT-DETR,
    hybrid_encoder.py.
Export: nn.MultiheadAttention folds the batch into its heads; here it keeps an axis of its own. The table of positions is
    computed in the graph from H and W. Fusing puts the scale into the queries. Equal up to rounding.
Deviations: officially the table is made column by column and the tokens row by row: on maps that are not square, a token
    gets the position of another. Weights were trained with it, so that it is the default; fixed_positions=True gives
    each token its own.
Limits: memory grows with the square of H * W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    require_choice,
    require_divisible,
    require_multiple,
    require_positive,
)
from attn_deploy.registry import register

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
TEMPERATURE = 10000.0


@register("aifi", aliases=("intra_scale_feature_interaction", "rtdetr_encoder_layer"), parameters=281152)
class AIFI(Fusible, nn.Module):
    """A transformer encoder layer over all positions of a map, with sine-cosine positions on queries and keys.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        ffn_dim: width of the hidden layer of the feed-forward part.
        num_heads: heads that C is cut into.
        act: activation of the feed-forward part, "gelu", "relu" or "silu".
        normalize_before: normalise before attention and feed-forward part instead of after them.
        fixed_positions: give each token its own position; the official code does so on square maps, up to the order of
            the axes.

    Raises:
        ValueError: if channels is not a multiple of 4 and of num_heads, ffn_dim < 1, or act is unknown.
    """

    official_keys = {
        "ma.in_proj_weight": "in_proj.weight",
        "ma.in_proj_bias": "in_proj.bias",
        "ma.out_proj": "out_proj",
        "self_attn.in_proj_weight": "in_proj.weight",
        "self_attn.in_proj_bias": "in_proj.bias",
        "self_attn.out_proj": "out_proj",
        "linear1": "fc1",
        "linear2": "fc2",
    }
    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        *,
        ffn_dim: int = 2048,
        num_heads: int = 8,
        act: str = "gelu",
        normalize_before: bool = False,
        fixed_positions: bool = False,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, ffn_dim=ffn_dim, num_heads=num_heads)
        require_multiple("channels", channels, 4, "a position is sine and cosine of a row and of a column")
        require_divisible("channels", channels, "num_heads", num_heads)
        require_choice("act", act, ACTIVATIONS)
        self.channels, self.num_heads, self.act = channels, num_heads, act
        self.normalize_before, self.fixed_positions = normalize_before, fixed_positions
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)
        self.fc1 = nn.Linear(channels, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        exponents = torch.arange(channels // 4, dtype=torch.float32) / (channels // 4)
        self.register_buffer("frequencies", 1.0 / TEMPERATURE**exponents, persistent=False)
        self.scale = (channels // num_heads) ** -0.5

    def positions(self, x: Tensor) -> Tensor:
        """The table of positions of a map's tokens, row by row: (1, H * W, C)."""
        height, width = x.shape[2], x.shape[3]
        token = torch.arange(height * width, device=x.device)
        if self.fixed_positions:
            row = token // width
            column = token - row * width
        else:
            column = token // height
            row = token - column * height
        along_w, along_h = (
            t.to(self.frequencies.dtype).unsqueeze(1) * self.frequencies.unsqueeze(0) for t in (column, row)
        )
        return torch.cat([along_w.sin(), along_w.cos(), along_h.sin(), along_h.cos()], 1).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AIFI")
        tokens, positions = x.flatten(2).transpose(1, 2), self.positions(x)
        if self.normalize_before:
            tokens = tokens + self._attended(self.norm1(tokens), positions)
            tokens = tokens + self._fed_forward(self.norm2(tokens))
        else:
            tokens = self.norm1(tokens + self._attended(tokens, positions))
            tokens = self.norm2(tokens + self._fed_forward(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)

    def _attended(self, tokens: Tensor, positions: Tensor) -> Tensor:
        weight, bias, both = self.in_proj.weight, self.in_proj.bias, 2 * self.channels
        placed = F.linear(tokens + positions, weight[:both], bias[:both])
        query, key = (self._by_head(t) for t in torch.split(placed, self.channels, 2))
        value = self._by_head(F.linear(tokens, weight[both:], bias[both:]))
        if self.scale != 1.0:
            query = query * self.scale
        weights = torch.matmul(query, key.transpose(2, 3)).softmax(3)
        return self.out_proj(torch.matmul(weights, value).transpose(1, 2).flatten(2))

    def _by_head(self, tokens: Tensor) -> Tensor:
        """(N, L, C) -> (N, heads, L, C / heads)."""
        heads = self.num_heads
        return tokens.reshape(tokens.shape[0], -1, heads, self.channels // heads).transpose(1, 2)

    def _fed_forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(ACTIVATIONS[self.act](self.fc1(tokens)))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the scale into the queries."""
        if self.scale == 1.0:
            return None
        self.in_proj.weight[: self.channels] *= self.scale
        self.in_proj.bias[: self.channels] *= self.scale
        self.scale = 1.0
        return "put the scale into the queries"
