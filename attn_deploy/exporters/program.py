"""torch.export with strict dynamic dimensions.

torch.onnx.export(dynamo=True) given a module rewrites dimensions that torch.export refuses ("fix: N = 2") and writes a
static file without a word. So the program is made here, where such a refusal is an error.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_config
from torch import nn
from torch.export import Dim, ExportedProgram

from attn_deploy.errors import DynamicAxisError, ExportError
from attn_deploy.exporters.prepare import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.refusal import refusal
from attn_deploy.inputs.tensors import TensorInput, bounds
from attn_deploy.rules.location import Place, place_of_error
from attn_deploy.rules.rules import explain, rule


def exported_program(prepared: PreparedModel) -> ExportedProgram:
    """The traced program with every dynamic axis symbolic; made once for a prepared model.

    Raises:
        DynamicAxisError: if torch.export finds that an axis must be constant.
        ExportError: if the model depends on the values of its input, or cannot be traced.
    """
    if prepared.program is None:
        prepared.program = _trace(prepared)
    return prepared.program


def _trace(prepared: PreparedModel) -> ExportedProgram:
    """Trace with the least declared extents; where a guard needs more (a pooled map of at least 1), with larger ones."""
    last: Exception | None = None
    for floor in (1, 4, 16):
        shapes = _by_parameter(prepared.module, _dynamic_shapes(prepared, floor))
        try:
            # Extents are taken as any number, 1 included: without this every "is it 1?" inside torch becomes a
            # constraint.
            with _any_extent(), quiet_torch(), prepared.traced():
                return torch.export.export(prepared.module, prepared.example(), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            last = error
            if "specified range" not in str(error):
                break
    raise _explained(prepared, last) from last


def _any_extent() -> Any:
    return symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def _dynamic_shapes(prepared: PreparedModel, floor: int) -> tuple[dict[int, Any], ...]:
    roots: dict[str, Any] = {}
    for given in prepared.inputs:
        for symbol in given.symbols:
            if symbol in prepared.dynamic and symbol not in roots:
                roots[symbol] = _dim(symbol, given, floor)
    shapes = []
    for given in prepared.inputs:
        axes = {}
        for axis, dim in enumerate(given.dims):
            if isinstance(dim, str) and prepared.moves(dim):
                axes[axis] = _dim_expression(dim, roots, prepared.label)
        shapes.append(axes)
    return tuple(shapes)


def _by_parameter(module: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """One entry for each parameter of forward, as torch.export wants it: those that ``*features`` takes are one."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL and index < len(shapes):
            return (*shapes[:index], shapes[index:])
    return shapes


def _dim(symbol: str, given: TensorInput, floor: int) -> Any:
    low, high = bounds(symbol, given)
    if symbol[0] != "N":
        low = max(low, min(floor, given.sizes[symbol]))
    step = given.multiple.get(symbol, 1)
    root = Dim(symbol if step == 1 else f"{symbol}_by_{step}", min=-(-low // step), max=high // step)
    return root if step == 1 else step * root


def _dim_expression(expression: str, roots: dict[str, Any], label: str) -> Any:
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


def _explained(prepared: PreparedModel, error: Exception | None) -> ExportError:
    text = " ".join(str(error).split())
    place = place_of_error(error, prepared.module) if error is not None else Place()
    entry = explain(text)
    if re.search(r"data-dependent|GuardOnDataDependent|Could not guard on", text):
        return refusal(prepared.label, "data-dependent-branch", place)
    if re.search(r"Constraints violated|was inferred to be a constant|specialized", text):
        reasons = re.findall(r"- (.+?)(?= - |$|Suggested|During|The error above|If you're using)", text)
        axes = ", ".join(s for s in prepared.dynamic if re.search(rf"\b{s}\b", text)) or ", ".join(prepared.dynamic)
        reason = (reasons[0].strip() if reasons else text)[:200].rstrip(". ")
        known = entry if entry is not None else rule("baked-size")
        remedy = "" if known.general else f" {known.remedy}"
        return DynamicAxisError(
            f"{prepared.label}: the axis {axes} cannot be dynamic: {reason}.{remedy}", rule=known.id
        )
    failure = f"torch.export cannot trace the model: {type(error).__name__}: {text[:400]}{place.phrase}"
    if entry is not None and not entry.general:
        return refusal(prepared.label, entry.id, place, detail=failure)
    return ExportError(f"{prepared.label}: {failure}.", rule=entry.id if entry is not None else None)
