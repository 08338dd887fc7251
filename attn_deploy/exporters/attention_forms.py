"""Attention in forms that both exporters know.

``scaled_dot_product_attention`` has four axes there. Windows and groups of tokens make five (twins, nest, SAM), single heads
make three: the axes before the heads are folded into one, which changes no number, since attention is the same for each index
of them. `nn.MultiheadAttention` folds the batch into the heads, which bakes it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_Made = tuple[Any, str] | None


def attention(
    scope: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> _Made:
    """``scaled_dot_product_attention`` with four axes, for queries of three or of five and more.

    Queries are (..., L, E), keys and values (..., S, E) with the same axes before; a mask is broadcast against (..., L, S).
    """
    rank = query.dim()
    same = key.dim() == value.dim() == rank and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if rank in (1, 2, 4) or not same or enable_gqa:
        return None
    settings: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if rank == 3:
        mask = attn_mask.unsqueeze(0) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
        q, k, v = (t.unsqueeze(0) for t in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, mask, **settings).squeeze(
            0
        ), "attention with an axis of one batch"
    mask = attn_mask
    if mask is not None and mask.dim() > 3:
        mask = mask.expand(*query.shape[:-2], *mask.shape[-2:]).flatten(0, rank - 4)
    q, k, v = (t.flatten(0, rank - 4) for t in (query, key, value))
    result = F.scaled_dot_product_attention(q, k, v, mask, **settings)
    return result.reshape(*query.shape[:-3], *result.shape[1:]), "attention with the axes before the heads as one"


_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def multi_head_attention(scope: Any, *args: Any, **kwargs: Any) -> _Made:
    """nn.MultiheadAttention with the batch kept as an axis of its own; torch folds it into the heads, and it is baked."""
    bound = _ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    g = bound.arguments
    query, key, value = g["query"], g["key"], g["value"]
    unusual = g["bias_k"] is not None or g["add_zero_attn"] or g["static_k"] is not None or g["static_v"] is not None
    if unusual or query.dim() != 3 or (g["training"] and g["dropout_p"] > 0):
        return None
    heads, width = g["num_heads"], g["embed_dim_to_check"]
    if g["use_separate_proj_weight"]:
        weights = (g["q_proj_weight"], g["k_proj_weight"], g["v_proj_weight"])
    else:
        weights = g["in_proj_weight"].split(width)
    biases = (None,) * 3 if g["in_proj_bias"] is None else g["in_proj_bias"].split(width)

    def by_head(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        split = F.linear(x.transpose(0, 1), weight, bias)  # (N, L, E)
        return split.reshape(split.shape[0], split.shape[1], heads, width // heads).transpose(1, 2)

    q, k, v = (by_head(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    scores = torch.matmul(q * (1 / math.sqrt(width // heads)), k.transpose(-2, -1))
    mask, padding = g["attn_mask"], g["key_padding_mask"]
    if g["is_causal"] and mask is None:
        return None
    per_head = None if mask is None else mask
    if mask is not None and mask.dim() == 3:
        per_head = mask.reshape(-1, heads, mask.shape[1], mask.shape[2])
    padding = None if padding is None else padding.unsqueeze(1).unsqueeze(2)
    for part in (per_head, padding):
        scores = scores if part is None else _masked(scores, part)
    attention = scores.softmax(-1)
    product = torch.matmul(attention, v)
    if not g["need_weights"]:  # eager mode then gives zeros for a query that may look nowhere, and NaN otherwise
        product = _without_rows_of_nothing(product, [m for m in (per_head, padding) if m is not None])
    joined = product.permute(2, 0, 1, 3).flatten(2)  # (L, N, E)
    result = F.linear(joined, g["out_proj_weight"], g["out_proj_bias"])
    averaged = None
    if g["need_weights"]:
        averaged = attention.mean(1) if g["average_attn_weights"] else attention
    return (result, averaged), "multi-head attention with the batch as an axis of its own"


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _without_rows_of_nothing(product: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Products (N, heads, L, E) with zeros for the queries whose keys are all masked; the masks fit (N, heads, L, S)."""
    if not masks:
        return product
    closed = [m if m.dtype == torch.bool else m == -math.inf for m in masks]
    nowhere = functools.reduce(torch.logical_or, closed).to(product.dtype).amin(-1, keepdim=True) > 0
    return product.masked_fill(nowhere, 0.0)


FORMS: dict[Callable[..., Any], Callable[..., _Made]] = {
    F.scaled_dot_product_attention: attention,
    F.multi_head_attention_forward: multi_head_attention,
}
