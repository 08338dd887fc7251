"""Attention (23) written out: heads, cache, scale, soft cap, masks, softmax, and the guard for rows without any key."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.constants import constant_array
from attn_deploy.graph.opset.facts import attribute, data_of, input_at, rank_of, required
from attn_deploy.graph.opset.rule import NoFormError, Replacement, down

_MINUS_INFINITY = -math.inf


def _attention(node: ir.Node, op: Builder) -> Replacement:
    query, dtype = data_of(node)
    key, value = required(node, 1), required(node, 2)
    packed = rank_of(query) == 3
    if not packed and rank_of(query) != 4:
        raise NoFormError("the rank of its query is unknown")
    query_heads, key_heads = _heads(node, packed)
    if packed:
        query = _unpack(op, query, query_heads)
        key, value = _unpack(op, key, key_heads), _unpack(op, value, key_heads)
    past_key, past_value = input_at(node, 4), input_at(node, 5)
    if past_key is not None and past_value is not None:
        key, value = op("Concat", past_key, key, axis=2), op("Concat", past_value, value, axis=2)
    present = (key, value)
    if query_heads != key_heads:
        key, value = (_repeat_heads(op, v, query_heads, query_heads // key_heads) for v in (key, value))
    products = op(
        "MatMul", _scaled(node, op, query, dtype, packed, query_heads), op("Transpose", key, perm=[0, 1, 3, 2])
    )
    capped = _soft_cap(node, op, products, dtype)
    masked, none_left = _masked(node, op, capped, dtype, past_key)
    weights = _softmax(node, op, masked, dtype)
    if none_left is not None:
        weights = op("Where", none_left, op.constant(np.zeros(()), dtype), weights)
    result = op("MatMul", weights, value)
    if packed:
        result = op("Reshape", op("Transpose", result, perm=[0, 2, 1, 3]), op.ints([0, 0, -1]))
    stage = (products, capped, masked, weights)[attribute(node, "qk_matmul_output_mode", 0)]
    outputs = [result, *present, stage][: len(node.outputs)]
    # The same value may be wanted elsewhere under its own name, or be an input of the graph.
    return [outputs[0], *(op("Identity", v) for v in outputs[1:])]


def _heads(node: ir.Node, packed: bool) -> tuple[int, int]:
    """Heads of the query and of the key; (0, 0) where both are the same number, unknown before the model runs."""
    if packed:
        query_heads, key_heads = attribute(node, "q_num_heads", 0), attribute(node, "kv_num_heads", 0)
        if not query_heads or not key_heads:
            raise NoFormError("its inputs are three-dimensional, and the number of heads is not given")
        return query_heads, key_heads
    query, key = required(node, 0), required(node, 1)
    counts = [v.shape[1] if v.shape is not None and len(v.shape) == 4 else None for v in (query, key)]
    first, second = counts
    if isinstance(first, int) and isinstance(second, int):
        return first, second
    if first is not None and first == second:
        return 0, 0
    raise NoFormError("the number of its heads is unknown before the model runs")


def _unpack(op: Builder, data: ir.Value, heads: int) -> ir.Value:
    return op("Transpose", op("Reshape", data, op.ints([0, 0, heads, -1])), perm=[0, 2, 1, 3])


def _repeat_heads(op: Builder, data: ir.Value, heads: int, times: int) -> ir.Value:
    """Each head ``times`` times in a row: grouped queries share their keys and values."""
    copies = op("Expand", op("Unsqueeze", data, op.ints([2])), op.ints([1, 1, times, 1, 1]))
    length = op("Gather", op("Shape", data), op.ints([2]), axis=0)
    return op("Reshape", copies, op("Concat", op.ints([0, heads]), length, op.ints([-1]), axis=0))


def _scaled(node: ir.Node, op: Builder, query: ir.Value, dtype: ir.DataType, packed: bool, heads: int) -> ir.Value:
    """The query times the scale: before the product, so that half precision does not overflow in it."""
    scale = attribute(node, "scale", None)
    if scale is None:
        width = required(node, 0).shape
        last = None if width is None else width[len(width) - 1]
        if isinstance(last, int):
            scale = 1 / math.sqrt(last // heads if packed else last)
    if scale is not None:
        return op("Mul", query, op.constant(scale, dtype))
    size = op("Gather", op("Shape", query), op.ints([3]), axis=0)
    root = op("Sqrt", op("Cast", size, to=int(ir.DataType.FLOAT)))
    return op("Div", query, op("Cast", root, to=int(dtype)))


def _soft_cap(node: ir.Node, op: Builder, scores: ir.Value, dtype: ir.DataType) -> ir.Value:
    cap = attribute(node, "softcap", 0.0)
    if not cap:
        return scores
    limit = op.constant(cap, dtype)
    return op("Mul", op("Tanh", op("Div", scores, limit)), limit)


def _masked(
    node: ir.Node, op: Builder, scores: ir.Value, dtype: ir.DataType, past: ir.Value | None
) -> tuple[ir.Value, ir.Value | None]:
    """The masked scores, and which rows have no key left (None where every row is known to have one)."""
    mask = input_at(node, 3)
    allowed: ir.Value | None = None
    masked = scores
    if mask is not None:
        if mask.dtype is None:
            raise NoFormError("the element type of its mask cannot be inferred")
        _check_mask_width(mask, required(node, 1), past)
        if mask.dtype == ir.DataType.BOOL:
            allowed = mask
        else:
            masked = op("Add", scores, mask if mask.dtype == dtype else op("Cast", mask, to=int(dtype)))
    if attribute(node, "is_causal", 0):
        causal = _causal(op, scores, past)
        allowed = causal if allowed is None else op("And", allowed, causal)
    lowest = op.constant(np.array(_MINUS_INFINITY), dtype)
    if allowed is not None:
        masked = op("Where", allowed, masked, lowest)
    if mask is None or _leaves_a_key(mask, causal=bool(attribute(node, "is_causal", 0))):
        return masked, None  # under a causal mask alone, every query sees the first key
    best = op.reduce("ReduceMax", masked, [-1])
    return masked, op("Equal", best, lowest)


def _check_mask_width(mask: ir.Value, key: ir.Value, past: ir.Value | None) -> None:
    if past is not None or mask.shape is None or key.shape is None or len(mask.shape) == 0:
        return
    width, length = mask.shape[len(mask.shape) - 1], key.shape[len(key.shape) - 2]
    if isinstance(width, int) and isinstance(length, int) and width not in (1, length):
        raise NoFormError(f"its mask covers {width} of {length} keys")


def _leaves_a_key(mask: ir.Value, causal: bool) -> bool:
    """Whether a mask that is known leaves a key to each query, which spares the guard."""
    array = constant_array(mask)
    if array is None or causal or array.ndim == 0:
        return False
    kept = array if array.dtype == np.bool_ else array.astype(np.float64) != _MINUS_INFINITY
    return bool(kept.any(axis=-1).all())


def _causal(op: Builder, scores: ir.Value, past: ir.Value | None) -> ir.Value:
    """True where key j may be seen by query i: j <= i + cached keys."""
    shape = op("Shape", scores)
    first = op.ints([0])
    rows, columns = (
        op("Range", op.index(0), op("Squeeze", op("Gather", shape, op.ints([axis]), axis=0), first), op.index(1))
        for axis in (2, 3)
    )
    if past is not None:
        rows = op("Add", rows, op("Gather", op("Shape", past), op.ints([2]), axis=0))
    return op("LessOrEqual", op("Unsqueeze", columns, first), op("Unsqueeze", rows, op.ints([1])))


def _softmax(node: ir.Node, op: Builder, scores: ir.Value, dtype: ir.DataType) -> ir.Value:
    precision = attribute(node, "softmax_precision", 0)
    if not precision or precision == int(dtype):
        return op("Softmax", scores, axis=-1)
    wide = op("Softmax", op("Cast", scores, to=precision), axis=-1)
    return op("Cast", wide, to=int(dtype))


RULES = (*down("Attention", 23, "written out", _attention),)
