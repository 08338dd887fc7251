"""Activations written out in older operators."""

from __future__ import annotations

import math

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder
from attn_deploy.graph.opset.facts import attribute, data_of
from attn_deploy.graph.opset.rule import Replacement, down


def _gelu(node: ir.Node, op: Builder) -> Replacement:
    x, dtype = data_of(node)
    one, half = op.constant(1.0, dtype), op.constant(0.5, dtype)
    if attribute(node, "approximate", "none") == "tanh":
        cube = op("Mul", op("Mul", op("Mul", x, x), x), op.constant(0.044715, dtype))
        inner = op("Tanh", op("Mul", op("Add", x, cube), op.constant(math.sqrt(2 / math.pi), dtype)))
    else:
        inner = op("Erf", op("Div", x, op.constant(math.sqrt(2), dtype)))
    return op("Mul", op("Mul", x, op("Add", inner, one)), half)


def _hard_swish(node: ir.Node, op: Builder) -> Replacement:
    x, _ = data_of(node)
    return op("Mul", x, op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(node: ir.Node, op: Builder) -> Replacement:
    x, _ = data_of(node)
    return op("Mul", x, op("Tanh", op("Softplus", x)))


def _swish(node: ir.Node, op: Builder) -> Replacement:
    x, dtype = data_of(node)
    alpha = attribute(node, "alpha", 1.0)
    scaled = x if alpha == 1.0 else op("Mul", x, op.constant(alpha, dtype))
    return op("Mul", x, op("Sigmoid", scaled))


RULES = (
    *down("Gelu", 20, "written out", _gelu),
    *down("HardSwish", 14, "written out", _hard_swish),
    *down("Mish", 18, "written out", _mish),
    *down("Swish", 24, "written out", _swish),
)
