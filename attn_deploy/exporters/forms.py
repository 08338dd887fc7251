"""Forms of operators that an opset lacks although it has the operator: a rank, or a word in an attribute.

The ONNX checker holds nodes against the schema of their opset: element types, attributes, counts of inputs. It does not
see what schemas say in prose. Source: the operator change log of ONNX, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from attn_deploy.errors import OpsetError
from attn_deploy.graph.placed import hollow
from attn_deploy.graph.scopes import NAME_SCOPES, module_path
from attn_deploy.graph.shape_inference import infer_shapes

# operator -> rank of its first input, up to the opset before the one given
_RANKS = {"GridSample": (4, 20)}
# (operator, attribute, value) -> first opset, and last one (0: none)
_VALUES = {
    ("GridSample", "mode", "linear"): (20, 0),
    ("GridSample", "mode", "cubic"): (20, 0),
    ("GridSample", "mode", "bilinear"): (16, 19),
    ("GridSample", "mode", "bicubic"): (16, 19),
    ("Pad", "mode", "wrap"): (19, 0),
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): (19, 0),
    ("Resize", "coordinate_transformation_mode", "tf_half_pixel_for_nn"): (11, 12),
    ("ScatterElements", "reduction", "max"): (18, 0),
    ("ScatterElements", "reduction", "min"): (18, 0),
    ("ScatterND", "reduction", "max"): (18, 0),
    ("ScatterND", "reduction", "min"): (18, 0),
}


def refuse_later_forms(model: onnx.ModelProto, opset: int, owner: str) -> None:
    """Refuse a graph that uses an operator in a form that its opset does not define.

    Raises:
        OpsetError: naming the operator, the module and the opset that has the form.
    """
    for node, form, first in _later(model, opset):
        scopes = next((p.value for p in node.metadata_props if p.key == NAME_SCOPES), None)
        module = module_path(node.name, scopes)
        where = f" ({module})" if module else ""
        remedy = f"Use --opset {first}" if first > opset else f"Use --opset {first} or below"
        raise OpsetError(
            f"{owner}: {node.op_type} {form}{where} is not defined in opset {opset}, so no runtime need take the file. "
            f"{remedy}.",
            rule="later-form",
        )


def _later(model: onnx.ModelProto, opset: int) -> Iterator[tuple[onnx.NodeProto, str, int]]:
    ranked = [n for n in model.graph.node if n.op_type in _RANKS and opset < _RANKS[n.op_type][1]]
    ranks = _ranks(model) if ranked else {}
    for node in ranked:
        allowed, first = _RANKS[node.op_type]
        rank = ranks.get(node.input[0], allowed)
        if rank != allowed:
            yield node, f"of rank {rank}", first
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type != onnx.AttributeProto.STRING:
                continue
            value = attribute.s.decode(errors="replace")
            first, last = _VALUES.get((node.op_type, attribute.name, value), (0, 0))
            if first > opset:
                yield node, f"with {attribute.name}={value!r}", first
            elif last and last < opset:
                yield node, f"with {attribute.name}={value!r}", last


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = infer_shapes(hollow(model)).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
