"""Agent attention: softmax attention through a few tokens pooled from the queries, linear in positions.

Paper: Agent Attention: On the Integration of Softmax and Linear Attention, ECCV 2024, arXiv:2312.08874.
Official: LeapLabTHU/Agent-Attention, agent_transformer/models/agent_pvt.py (AgentAttention); its input is (N, H * W, C).
Export: linear layers are 1x1 convolutions, pooling is a constant matrix along each axis, and the position biases lose
    their repetition over the batch. Equal up to rounding. Fusing resizes the biases once, as they depend on no input,
    and puts the scale into the pooling.
Deviations: the DeiT variant with a class token is not offered.
Limits: the biases have the size of the map, so H and W are fixed at size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, averaging_matrix, check_channels, require_divisible, require_positive
from attn_deploy.ops.layer_norm_2d import LayerNormOverChannels
from attn_deploy.ops.parallel_convs import split_channels
from attn_deploy.ops.sizes import require_exact_size
from attn_deploy.registry import Input, register

GRID = 7  # side of the maps from which the biases of pairs are resized


@register(
    "agent_attention",
    aliases=("agent_attn",),
    reference={"channels": 64, "size": 14},
    parameters=77456,
    inputs=(Input("x", ("N", "channels", "size", "size")),),
    dynamic=("N",),
)
class AgentAttention(Fusible, nn.Module):
    """Agents pooled from the queries gather the values, and each position attends to the agents.

    Shape: (N, C, size, size) -> (N, C, size, size); dynamic N.

    Args:
        channels: C.
        size: H and W of the map.
        num_heads: heads that C is cut into.
        qkv_bias: whether queries, keys and values have a bias.
        sr_ratio: by how much keys and values are smaller than the map along each axis.
        agent_num: number of agents, a square.

    Raises:
        ValueError: if num_heads does not divide channels, sr_ratio does not divide size, agent_num is no square, or the
            input is of another size.
    """

    pooling: Tensor

    def __init__(
        self,
        channels: int,
        *,
        size: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        sr_ratio: int = 1,
        agent_num: int = 49,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, size=size, num_heads=num_heads, sr_ratio=sr_ratio, agent_num=agent_num)
        require_divisible("channels", channels, "num_heads", num_heads)
        require_divisible("size", size, "sr_ratio", sr_ratio)
        side = math.isqrt(agent_num)
        if side * side != agent_num:
            raise ValueError(f"agent_num must be a square, got {agent_num}: use {side * side} or {(side + 1) ** 2}.")
        self.channels, self.size, self.num_heads, self.agent_num = channels, size, num_heads, agent_num
        self.sr_ratio, self.head_dim, self.small = sr_ratio, channels // num_heads, size // sr_ratio
        self.scale = self.head_dim**-0.5
        self.q = nn.Conv2d(channels, channels, 1, bias=qkv_bias)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(channels, channels, sr_ratio, stride=sr_ratio)
            self.norm = LayerNormOverChannels(channels, eps=1e-5)
        self.dwc = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        shapes = {
            "an_bias": (num_heads, agent_num, GRID, GRID),
            "na_bias": (num_heads, agent_num, GRID, GRID),
            "ah_bias": (1, num_heads, agent_num, self.small, 1),
            "aw_bias": (1, num_heads, agent_num, 1, self.small),
            "ha_bias": (1, num_heads, size, 1, agent_num),
            "wa_bias": (1, num_heads, 1, size, agent_num),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02)))
        pooling = averaging_matrix(side, size, torch.zeros(1, dtype=torch.float64)).float()
        self.register_buffer("pooling", pooling, persistent=False)
        self.fixed_biases = False

    def position_biases(self) -> tuple[Tensor, Tensor]:
        """Of agents on keys, (1, heads, agents, keys), and of positions on agents, (1, heads, H * W, agents)."""
        if self.fixed_biases:
            return self.agent_bias, self.query_bias
        shape = (1, self.num_heads, self.agent_num, -1)
        of_agents = _resized(self.an_bias, self.small).reshape(shape) + (self.ah_bias + self.aw_bias).reshape(shape)
        of_queries = _resized(self.na_bias, self.size).reshape(shape).transpose(2, 3)
        return of_agents, of_queries + (self.ha_bias + self.wa_bias).reshape(1, self.num_heads, -1, self.agent_num)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "AgentAttention")
        require_exact_size(x, self.size, self.size, "AgentAttention")
        query = self.q(x)
        agents = torch.matmul(torch.matmul(self.pooling, query), self.pooling.t())
        if self.scale != 1.0:  # both products have the agents as a factor
            agents = agents * self.scale
        reduced = x if self.sr_ratio == 1 else self.norm(self.sr(x))
        key, value = split_channels(self.kv(reduced), (self.channels,) * 2)
        agent_bias, query_bias = self.position_biases()
        query, agents = self._by_head(query).transpose(2, 3), self._by_head(agents)
        gathered = torch.matmul(agents.transpose(2, 3), self._by_head(key)) + agent_bias
        gathered = torch.matmul(gathered.softmax(3), self._by_head(value).transpose(2, 3))
        mixed = torch.matmul((torch.matmul(query, agents) + query_bias).softmax(3), gathered)
        mixed = mixed.transpose(2, 3).reshape(-1, self.channels, self.size, self.size)
        if self.sr_ratio > 1:
            value = _resized(value, self.size)
        return self.proj(mixed + self.dwc(value))

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, heads, C / heads, h * w)."""
        return x.reshape(x.shape[0], self.num_heads, self.head_dim, -1)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Resize the position biases once, and put the scale into the pooling."""
        if self.fixed_biases:
            return None
        agent_bias, query_bias = self.position_biases()
        for name in ("an_bias", "na_bias", "ah_bias", "aw_bias", "ha_bias", "wa_bias"):
            setattr(self, name, None)
        self.agent_bias, self.query_bias = nn.Parameter(agent_bias), nn.Parameter(query_bias.contiguous())
        self.fixed_biases = True
        self.pooling = self.pooling * self.scale**0.5
        self.scale = 1.0
        return "resized the position biases once, put the scale into the pooling"


def _resized(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
