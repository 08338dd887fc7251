"""Grounding transformer of the Feature Pyramid Transformer: fine positions gather from a coarse map, top-down.

Paper: Feature Pyramid Transformer, ECCV 2020, arXiv:2007.09451.
Official: ZHANGDONG-NJUST/FPT, lib/modeling/grounding_trans.py (GroundTrans).
Export: without a softmax ('dot') the product is re-associated, keys times values and their projection first, which
    costs C^2 instead of holding a fine x coarse matrix; in 'concatenate' the convolution over repeated pairs is an outer
    sum. Equal up to rounding.
Deviations: the released forward raises a TypeError (a missing '*'); this is what it means. The paper's grounding uses a
    Euclidean similarity and a mixture of softmaxes, the code neither.
Limits: 'dot' and 'concatenate' are cubic and quadratic in their inputs by definition, and leave the range of fp16 for
    large ones.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_choice, require_positive
from attn_deploy.ops.bounded import bounded_product_softmax
from attn_deploy.registry import Input, register


@register(
    "fpt_ground_trans",
    parameters=8480,
    inputs=(Input("low", ("N", "channels", "H", "W")), Input("high", ("N", "channels", "H1", "W1"))),
    dynamic=("N", "H", "W", "H1", "W1"),
    sizes={"H1": 9, "W1": 11},
)
class FPTGroundingTransformer(nn.Module):
    """Makes for each position of a fine map a mixture of a coarse map's values; no residual.

    Shape: (N, C, H, W), (N, C, H1, W1) -> (N, C, H, W); dynamic N, H, W, H1, W1.

    Args:
        channels: C.
        inter_channels: width of queries, keys and values; C // 2 by default.
        mode: 'dot' and 'concatenate' divide by the number of keys; 'embedded' and 'gaussian' take a softmax over keys,
            'gaussian' of the maps themselves.
        norm: whether BatchNorm, which begins as zero, follows the last convolution.

    Raises:
        ValueError: if mode is unknown or inter_channels is less than 1.
    """

    official_keys = {
        "g": "value",
        "theta": "query",
        "phi": "key",
        "W_f.0": "relation",
        "W_z.0": "project.0",
        "W_z.1": "project.1",
        "W_z": "project.0",
    }

    def __init__(
        self, channels: int, *, inter_channels: int | None = None, mode: str = "dot", norm: bool = True
    ) -> None:
        super().__init__()
        width = channels // 2 if inter_channels is None else inter_channels
        require_positive(channels=channels, inter_channels=width)
        require_choice("mode", mode, ("dot", "embedded", "gaussian", "concatenate"))
        self.channels, self.width, self.mode = channels, width, mode
        self.value = nn.Conv2d(channels, width, 1)
        if mode != "gaussian":
            self.query = nn.Conv2d(channels, width, 1)
            self.key = nn.Conv2d(channels, width, 1)
        if mode == "concatenate":
            self.relation = nn.Conv2d(2 * width, 1, 1)
        project = nn.Conv2d(width, channels, 1)
        self.project = nn.Sequential(project, nn.BatchNorm2d(channels)) if norm else nn.Sequential(project)
        for tensor in (self.project[-1].weight, self.project[-1].bias):
            nn.init.zeros_(tensor)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        check_channels(low, self.channels, "FPTGroundingTransformer")
        check_channels(high, self.channels, "FPTGroundingTransformer")
        value = self.value(high).flatten(2)
        query, key = (low, high) if self.mode == "gaussian" else (self.query(low), self.key(high))
        query, key = query.flatten(2), key.flatten(2)
        if self.mode == "dot":
            value = value / (high.shape[2] * high.shape[3])
            return self._projected(value.matmul(key.transpose(1, 2)), query, low)
        if self.mode == "concatenate":
            value = value / (high.shape[2] * high.shape[3])
            weights = self._outer_sum(query, key).relu()
        elif self.mode == "gaussian":
            weights = bounded_product_softmax(query.transpose(1, 2), key, self.channels)
        else:
            weights = query.transpose(1, 2).matmul(key).softmax(2)
        mixed = weights.matmul(value.transpose(1, 2)).transpose(1, 2)  # faster than the transpose of the large map
        return self.project(mixed.reshape(low.shape[0], self.width, low.shape[2], low.shape[3]))

    def _projected(self, pairs: Tensor, query: Tensor, low: Tensor) -> Tensor:
        """The last layers of (pairs @ query), whose convolution acts on the small pairs instead of the fine map."""
        convolution, *rest = self.project
        mixed = convolution.weight.flatten(1).matmul(pairs).matmul(query) + convolution.bias.unsqueeze(1)
        mixed = mixed.reshape(low.shape[0], self.channels, low.shape[2], low.shape[3])
        for layer in rest:
            mixed = layer(mixed)
        return mixed

    def _outer_sum(self, query: Tensor, key: Tensor) -> Tensor:
        """The 1x1 convolution over all pairs [query, key]: (N, queries, keys)."""
        weight = self.relation.weight.reshape(2, 1, self.width)
        of_query = weight[0].matmul(query) + self.relation.bias
        return of_query.transpose(1, 2) + weight[1].matmul(key)
