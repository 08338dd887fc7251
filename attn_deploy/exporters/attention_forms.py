"""Attention over another number of axes than the four that the torch.export exporter knows.

Windows and groups of tokens make five (twins, nest, SAM), single heads make three. The axes before the heads are folded into
one, which changes no number: attention is the same for each index of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


FORMS: dict[Callable[..., Any], Callable[..., _Made]] = {F.scaled_dot_product_attention: attention}
