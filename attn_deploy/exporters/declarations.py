"""The sizes of a model's inputs as torch.export wants them declared."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.export import Dim

from attn_deploy.errors import DynamicAxisError
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.inputs.tensors import TensorInput, bounds


@dataclass(frozen=True, slots=True)
class Declaration:
    """One way to declare sizes.

    Attributes:
        named: each symbol is one `Dim` with its range, which torch holds the trace against. Otherwise each axis is free
            (`Dim.DYNAMIC`), and only the proof says whether the file follows.
        floor: the least extent of every axis but the batch.
        minimum: the least extent of symbols, over ``floor``.
        any_extent: no question about an extent of 1 becomes a constraint.
    """

    named: bool = True
    floor: int = 1
    minimum: Mapping[str, int] = field(default_factory=dict)
    any_extent: bool = True


def declared_shapes(prepared: PreparedModel, declaration: Declaration) -> tuple[dict[int, Any], ...]:
    """For each input the moving axes with what they are declared as.

    Raises:
        DynamicAxisError: if an axis is an expression that no `Dim` can be.
    """
    roots: dict[str, Any] = {}
    for tensor in prepared.inputs:
        for symbol in tensor.symbols:
            if symbol in prepared.dynamic and symbol not in roots:
                roots[symbol] = _dim(symbol, tensor, declaration)
    shapes = []
    for tensor in prepared.inputs:
        axes = {}
        for axis, dim in enumerate(tensor.dims):
            if isinstance(dim, str) and prepared.moves(dim):
                axes[axis] = _dim_expression(dim, roots, prepared.label) if declaration.named else Dim.DYNAMIC
        shapes.append(axes)
    return tuple(shapes)


def _dim(symbol: str, tensor: TensorInput, declaration: Declaration) -> Any:
    low, high = bounds(symbol, tensor)
    if symbol[0] != "N":
        low = max(low, min(declaration.floor, tensor.sizes[symbol]))
    low = max(low, declaration.minimum.get(symbol, 1))
    step = tensor.multiple.get(symbol, 1)
    root = Dim(symbol if step == 1 else f"{symbol}_by_{step}", min=-(-low // step), max=high // step)
    return root if step == 1 else step * root


def _dim_expression(expression: str, roots: Mapping[str, Any], label: str) -> Any:
    def walk(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in roots:
            return roots[node.id]
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            if isinstance(node.op, ast.Mult):
                return right * left if isinstance(left, int) else left * right
            if isinstance(node.op, ast.Add):
                return right + left if isinstance(left, int) else left + right
            if isinstance(node.op, ast.Sub):
                return left - right
        raise DynamicAxisError(f"{label}: the axis {expression!r} cannot be made dynamic: only k*n + c can.")

    return walk(ast.parse(expression, mode="eval").body)
