"""What the outputs of a graph are: numbers, choices (indices, classes, masks), or scores for classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from attn_deploy.errors import GraphError, InvalidRequestError
from attn_deploy.graph.placed import hollow
from attn_deploy.graph.shape_inference import infer_shapes

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_PICKING = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression"})
_COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_SCORING = frozenset({"Sigmoid", "Softmax", "Conv", "MatMul", "Gemm", "Resize", "GroupNormalization"})
# These give their input on, in another form or order.
_PASSING = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}
)
_MOVING = _PASSING | {"Transpose", "Tile", "Expand", "Slice"}
_MOST_PARTS = 8
_HEADS = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a graph.

    Attributes:
        name: of the output.
        choice: whether it holds choices: equal or not, never nearly equal.
        scores: the floating-point tensor whose order made the choice; empty where there is none, or more than one.
        axis: of the scores along which was chosen.
        set_of_rows: whether it is a list of rows in no fixed number, as NonMaxSuppression gives.
        joined: the axis along which the graph joins the output from parts (boxes, scores), and their extents; None where
            it does not, or along the batch.
    """

    name: str
    choice: bool
    scores: str = ""
    axis: int = -1
    set_of_rows: bool = False
    joined: tuple[int, tuple[int, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the outputs of a graph are to be compared.

    Attributes:
        outputs: what each is.
        scores: the name of an extra output that gives the scores behind a choice, by the name of the choice.
    """

    outputs: Mapping[str, Output]
    scores: Mapping[str, str]


def read_outputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Reading]:
    """A graph that gives the scores behind its choices too, and how its outputs are to be compared."""
    outputs = outputs_of(model)
    wider, scores = with_scores(model, outputs)
    return wider, Reading(outputs, scores)


def outputs_of(model: onnx.ModelProto) -> dict[str, Output]:
    """What each output of a graph is, by name.

    Integers and booleans are choices, unless they are floating-point numbers rounded at the very end, as the bytes of an
    image are.
    """
    makers = {o: n for n in model.graph.node for o in n.output if o}
    outputs = {}
    extents = _extents(model)
    for value in model.graph.output:
        if value.type.tensor_type.elem_type in _FLOATS:
            rank = len(value.type.tensor_type.shape.dim)
            outputs[value.name] = Output(value.name, choice=False, joined=_joined(value.name, rank, makers, extents))
        else:
            outputs[value.name] = _choice(value.name, makers)
    return outputs


def scores_output(model: onnx.ModelProto, name: str | None = None) -> str:
    """The output that holds a score for each class; empty where none is known to.

    Args:
        model: the graph.
        name: of the output, as the user gives it; None finds one behind a softmax or sigmoid, N x classes.

    Raises:
        InvalidRequestError: if there is no output of that name, or it is not N x classes.
    """
    shapes = {o.name: o.type.tensor_type for o in model.graph.output}
    if name is not None:
        if name not in shapes:
            raise InvalidRequestError(f"--scores {name!r}: the outputs are {', '.join(shapes)}.")
        if not _by_class(shapes[name]):
            raise InvalidRequestError(
                f"--scores {name!r}: scores are floating-point numbers, N x classes; this output is not."
            )
        return name
    makers = {o: n for n in model.graph.node for o in n.output if o}
    for output, kind in shapes.items():
        maker = _behind(output, makers)
        if _by_class(kind) and maker is not None and maker.op_type in _HEADS:
            return str(output)
    return ""


def with_scores(model: onnx.ModelProto, outputs: Mapping[str, Output]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of a graph that gives the scores behind its choices too.

    Returns:
        The graph, and the name of the extra output by the name of the choice.
    """
    wanted = {o.name: o.scores for o in outputs.values() if o.choice and o.scores}
    if not wanted:
        return model, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    extra = {}
    for index, (name, scores) in enumerate(wanted.items()):
        extra[name] = f"attn_deploy_scores_{index}"
        copy.graph.node.append(helper.make_node("Identity", [scores], [extra[name]]))
        copy.graph.output.append(onnx.ValueInfoProto(name=extra[name]))
    return copy, extra


def scores_graph(model: onnx.ModelProto, choice: str, name: str) -> onnx.ModelProto:
    """A copy of a graph whose one output, called ``name``, is the scores that the output ``choice`` was made by.

    Raises:
        GraphError: if nothing in the graph makes such a choice.
    """
    scores = outputs_of(model)[choice].scores
    if not scores:
        raise GraphError(f"no scores were found behind the output {choice!r}, so it cannot be verified.")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node("Identity", [scores], [name]))
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def picks_elements(model: onnx.ModelProto) -> bool:
    """Whether a graph keeps elements by their scores, so that a near tie decides what is computed from there.

    The largest, or those on one side of a threshold: a mask that is a sigmoid above 0.5, say.
    """
    makers = {o: n for n in model.graph.node for o in n.output}

    def scored(name: str) -> bool:
        node = makers.get(name)
        while node is not None and node.op_type in _MOVING:
            node = makers.get(node.input[0])
        return node is not None and node.op_type in _SCORING

    return any(
        n.op_type in _PICKING or (n.op_type in _COMPARING and any(map(scored, n.input))) for n in model.graph.node
    )


def _choice(name: str, makers: Mapping[str, onnx.NodeProto]) -> Output:
    maker = _behind(name, makers)
    if maker is None:
        return Output(name, choice=True)
    attributes = {a.name: helper.get_attribute_value(a) for a in maker.attribute}
    if maker.op_type in ("ArgMax", "ArgMin") and attributes.get("keepdims", 1) in (0, 1):
        axis = int(attributes.get("axis", 0))
        # The indices must have the axis of the scores, so that each can be looked up in them.
        return Output(name, choice=True, scores=maker.input[0], axis=axis)
    if maker.op_type == "TopK":
        return Output(name, choice=True, scores=maker.input[0], axis=int(attributes.get("axis", -1)))
    if maker.op_type in ("NonMaxSuppression", "NonZero"):
        return Output(name, choice=True, set_of_rows=maker.op_type == "NonMaxSuppression")
    if maker.op_type in ("Round", "Clip", "Mul", "Add", "Sub", "Div", "Floor", "Ceil", "Relu"):
        return Output(name, choice=False)  # an image in bytes: a number that was rounded
    return Output(name, choice=True)


def _behind(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """What makes a tensor, behind nodes that only pass it on."""
    node = makers.get(name)
    while node is not None and node.op_type in _PASSING and node.input and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _by_class(kind: onnx.TypeProto.Tensor) -> bool:
    dims = kind.shape.dim
    return (
        kind.elem_type in _FLOATS and len(dims) == 2 and not (dims[1].HasField("dim_value") and dims[1].dim_value < 2)
    )


def _extents(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """The known extents of all tensors, where something is joined at all."""
    if not any(n.op_type == "Concat" for n in model.graph.node):
        return {}
    try:
        inferred = infer_shapes(hollow(model), data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # the graph is then compared by scales alone
        return {}
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {
        v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim] for v in values
    }


def _joined(
    name: str, rank: int, makers: Mapping[str, onnx.NodeProto], extents: Mapping[str, list[int | None]]
) -> tuple[int, tuple[int, ...]] | None:
    """The parts that an output is joined from; a join along the positions of several maps is looked through."""
    order = list(range(rank))
    node = makers.get(name)
    while node is not None and extents:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Transpose" and len(attributes.get("perm", ())) == rank:
            order = [attributes["perm"][k] for k in order]
        elif node.op_type == "Concat":
            axis = int(attributes.get("axis", 0)) % max(rank, 1)
            sizes = [extents.get(i, [])[axis] if len(extents.get(i, [])) == rank else None for i in node.input]
            inner = makers.get(node.input[0])
            if inner is None or inner.op_type not in ("Concat", "Transpose"):
                known = [s for s in sizes if s]
                if axis == 0 or len(known) < len(sizes) or not 2 <= len(sizes) <= _MOST_PARTS:
                    return None
                return order.index(axis), tuple(known)
        elif node.op_type not in ("Identity", "Cast"):
            return None
        node = makers.get(node.input[0])
    return None
