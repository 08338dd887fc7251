"""The names of classes that a package carries: as many as its model has classes, or every answer has another's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.errors import InvalidRequestError, reason_of
from attn_deploy.files import require_regular
from attn_deploy.graph.shape_inference import infer_shapes

_CHOICES = ("argmax", "topk")  # of --postprocess: the classes are what they choose from
_OPERATORS = ("ArgMax", "TopK")
_CASTS = ("Cast", "Identity", "Squeeze")


def read_labels(path: Path, classes: int | None) -> tuple[str, ...]:
    """The name of each class, one a line; blank lines at the end count for nothing.

    Args:
        path: of a text file in UTF-8.
        classes: of the model; None where that is not known.

    Raises:
        InvalidRequestError: if it cannot be read, holds no name or what is none, or has another number of them.
    """
    require_regular(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"--labels {path} cannot be read as text: {reason_of(error)}.") from error
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line:
            raise InvalidRequestError(
                f"--labels {path}: line {number} is blank, so that the names after it could be those of other classes; write "
                "a name in it, or take it out."
            )
        if not line.isprintable():
            raise InvalidRequestError(f"--labels {path}: line {number} is no name: {line[:40]!r}.")
    if not lines:
        raise InvalidRequestError(f"--labels {path} holds no name; write one for each class, each on a line.")
    if classes is not None and len(lines) != classes:
        raise InvalidRequestError(f"--labels {path} has {len(lines)} names, and the model has {classes} classes.")
    return tuple(lines)


def class_count(model: onnx.ModelProto, record: Mapping[str, Any]) -> int | None:
    """How many classes a graph distinguishes, where that is certain: one row of scores, or the choice of the best of one.

    Args:
        model: with the types of its outputs.
        record: of its export, whose ``postprocess`` says what was chosen.
    """
    outputs = [o.type.tensor_type for o in model.graph.output]
    chosen = record.get("postprocess")
    if isinstance(chosen, Mapping) and chosen.get("choice") in _CHOICES:
        return _chosen_from(model)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if len(outputs) == 1 and outputs[0].elem_type in floats and len(outputs[0].shape.dim) == 2:
        return max(2, outputs[0].shape.dim[1].dim_value) if outputs[0].shape.dim[1].dim_value else None
    return None


def _chosen_from(model: onnx.ModelProto) -> int | None:
    """The extent of the axis that the last output's index runs over."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    node = producers.get(model.graph.output[-1].name)
    while node is not None and node.op_type in _CASTS:
        node = producers.get(node.input[0])
    if node is None or node.op_type not in _OPERATORS:
        return None
    usual = 0 if node.op_type == "ArgMax" else -1
    axis = next((a.i for a in node.attribute if a.name == "axis"), usual)
    shapes = {v.name: v.type.tensor_type.shape.dim for v in infer_shapes(model).graph.value_info}
    dims = shapes.get(node.input[0])
    return dims[axis].dim_value or None if dims is not None and -len(dims) <= axis < len(dims) else None
