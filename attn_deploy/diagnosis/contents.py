"""What a file holds, read from the file alone: `attn_deploy.inspect` and `attn_deploy.diff_graphs`. No torch."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from attn_deploy.engine.artifact import EngineArtifact, read_engine
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import OnnxArtifact, describe, load_model, open_model
from attn_deploy.graph.macs import Shape, node_macs
from attn_deploy.graph.operators import all_nodes
from attn_deploy.graph.placed import array_of
from attn_deploy.graph.scopes import NAME_SCOPES, module_path
from attn_deploy.graph.tensors import infer_tensors
from attn_deploy.inputs.tensors import TensorInput, fit_size
from attn_deploy.parity.given import given_inputs
from attn_deploy.parity.graphs import graph_inputs

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
USUAL_SIZES = {"N": 1, "H": 32, "W": 32}  # as the registry counts its MACs
_OTHER_SIZE = 16
_NAMES = {"float": "float32", "double": "float64"}
_SHAPE_TYPES = ("int64", "int32", "bool", "string")  # of sizes and axes, which are no parameters


@dataclass(frozen=True, slots=True)
class NodeCost:
    """A product in a graph: node, operator, module path (empty if unknown), output shape and multiply-accumulates."""

    node: str
    operator: str
    module: str
    shape: Shape
    macs: int


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What an ONNX file holds.

    Attributes:
        artifact: file, opset, interface, operators, parameters and metadata.
        parameters: numbers that were learned: scalars in weights that are no sizes, axes or masks.
        dtypes: results of nodes by element type.
        weight_bytes: bytes of weights by element type.
        pairs: QuantizeLinear nodes that a DequantizeLinear reads; ``dequantized_weights`` such nodes on constants.
        sizes: the input shapes that MACs were counted at.
        macs: multiply-accumulates of all products whose shapes are known.
        unknown: products whose shapes are not: with any, ``macs`` is a lower bound.
        products: those products, largest first.
    """

    artifact: OnnxArtifact
    parameters: int
    dtypes: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    pairs: int
    dequantized_weights: int
    sizes: Mapping[str, Shape]
    macs: int
    unknown: tuple[str, ...]
    products: tuple[NodeCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "artifact": self.artifact.to_dict()}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two graphs differ, in words; an empty side lacks it."""

    what: str
    first: str
    second: str


def inspect(
    path: Path | str,
    *,
    inputs: Sequence[TensorInput] | None = None,
    shapes: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
) -> GraphReport | EngineArtifact:
    """Read what an ONNX file or an engine holds.

    Args:
        path: ``.onnx``, or ``.engine``, ``.plan`` and ``.trt`` with the JSON file that was written beside it.
        inputs: shapes at which the MACs of a graph are counted; by default batch 1 and 32 x 32 where axes are symbolic.
        shapes: the same as text, ``NAME:1x3x64x64``; names may hold colons and slashes.
        samples: real inputs at whose shapes they are counted, see `attn_deploy.parity.given`.

    Raises:
        GraphError: if an ONNX file cannot be read or is not valid.
        EngineMismatchError: if an engine has no sidecar, or another one's.
        InvalidRequestError: if the inputs are not those of the graph.
    """
    path = Path(path)
    if path.suffix in ENGINE_SUFFIXES:
        if inputs is not None or shapes or samples:
            raise InvalidRequestError(
                f"{path} is an engine, whose MACs are not counted: leave out --input and --sample."
            )
        return read_engine(path)
    model, _ = open_model(path, light=True)
    artifact = describe(model, path)
    own = shapes or samples
    sizes = _given_sizes(model, artifact, shapes, samples) if own else _sizes(model, artifact, inputs)
    known, dtypes = _inferred(model, sizes)
    weights: collections.Counter[str] = collections.Counter()
    parameters = 0
    for tensor in model.graph.initializer:
        array = array_of(tensor)
        weights[_dtype(tensor.data_type)] += array.nbytes
        parameters += 0 if _dtype(tensor.data_type) in _SHAPE_TYPES else array.size
    quantized = {o for n in model.graph.node if n.op_type == "QuantizeLinear" for o in n.output}
    dequantizing = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    products, unknown = _products(model, known)
    return GraphReport(
        artifact=artifact,
        parameters=parameters,
        dtypes=dtypes,
        weight_bytes=dict(weights),
        pairs=sum(n.input[0] in quantized for n in dequantizing),
        dequantized_weights=sum(n.input[0] not in quantized for n in dequantizing),
        sizes=sizes,
        macs=sum(p.macs for p in products),
        unknown=unknown,
        products=products,
    )


def diff_graphs(first: Path | str, second: Path | str) -> tuple[Difference, ...]:
    """What two ONNX files differ in; nothing if they compute the same in the same way.

    Raises:
        GraphError: if a file cannot be read or is not valid.
        InvalidRequestError: if one is an engine.
    """
    one, two = inspect(first), inspect(second)
    if isinstance(one, EngineArtifact) or isinstance(two, EngineArtifact):
        raise InvalidRequestError("engines are opaque and cannot be compared: give the two ONNX files they come from.")
    a, b = one.artifact, two.artifact
    differences = [
        Difference(what, str(x), str(y))
        for what, x, y in (
            ("opset", a.opset, b.opset),
            ("IR version", a.ir_version, b.ir_version),
            ("inputs", ", ".join(map(str, a.inputs)), ", ".join(map(str, b.inputs))),
            ("outputs", ", ".join(map(str, a.outputs)), ", ".join(map(str, b.outputs))),
            ("parameters", one.parameters, two.parameters),
            ("Q/DQ pairs", one.pairs, two.pairs),
            ("MACs", one.macs, two.macs),
        )
        if x != y
    ]
    for what, x, y in (
        ("operator", a.operators, b.operators),
        ("results in", one.dtypes, two.dtypes),
        ("bytes of weights in", one.weight_bytes, two.weight_bytes),
    ):
        for key in sorted({*x, *y}):
            if x.get(key, 0) != y.get(key, 0):
                differences.append(Difference(f"{what} {key}", str(x.get(key, 0)), str(y.get(key, 0))))
    left, right = load_model(a.path, light=True), load_model(b.path, light=True)
    return (*differences, *_differing_nodes(left, right), *_differing_weights(left, right))


def _sizes(model: onnx.ModelProto, artifact: OnnxArtifact, inputs: Sequence[TensorInput] | None) -> dict[str, Shape]:
    if inputs is None:
        usual_inputs = graph_inputs(model)
        usual = {s: fit_size(USUAL_SIZES.get(s[0], _OTHER_SIZE), s, i) for i in usual_inputs for s in i.symbols}
        return {i.name: i.shape(usual) for i in usual_inputs}
    shapes = {i.name: i.shape() for i in inputs}
    if len(artifact.inputs) == 1 and len(shapes) == 1:
        shapes = {artifact.inputs[0].name: next(iter(shapes.values()))}
    for value in artifact.inputs:
        shape = shapes.get(value.name)
        fits = shape is not None and len(shape) == len(value.shape)
        if (
            shape is None
            or not fits
            or any(isinstance(d, int) and d != n for d, n in zip(value.shape, shape, strict=True))
        ):
            raise InvalidRequestError(
                f"{artifact.path}: the input {value} was given as {'nothing' if shape is None else 'x'.join(map(str, shape))}."
            )
    return {v.name: shapes[v.name] for v in artifact.inputs}


def _given_sizes(
    model: onnx.ModelProto, artifact: OnnxArtifact, shapes: Sequence[str], samples: Sequence[Path | str]
) -> dict[str, Shape]:
    own = given_inputs(model, shapes, samples)
    given = {n: tuple(a.shape) for one in own.samples[:1] for n, a in one.items()}
    given |= {n: tuple(v[0].shape) for n, v in own.values.items()} | dict(own.shapes)
    usual = _sizes(model, artifact, None) if len(given) < len(artifact.inputs) else {}
    return {v.name: tuple(given[v.name]) if v.name in given else usual[v.name] for v in artifact.inputs}


def _inferred(model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> tuple[Mapping[str, Shape], dict[str, int]]:
    """Shapes of all tensors at the given input sizes, and the results of nodes by element type."""
    tensors = infer_tensors(model, sizes)
    results = dict.fromkeys(o for n in model.graph.node for o in n.output if o)
    counted = collections.Counter(_dtype(tensors.types[o]) for o in results if o in tensors.types)
    return tensors.shapes, dict(sorted(counted.items()))


def _products(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> tuple[tuple[NodeCost, ...], tuple[str, ...]]:
    costs, uncounted = [], []
    for node in all_nodes(model.graph):
        macs = node_macs(node, shapes)
        if macs is None:
            uncounted.append(f"{node.op_type} {node.name or node.output[0]}")
        elif macs:
            scopes = next((p.value for p in node.metadata_props if p.key == NAME_SCOPES), None)
            module = module_path(node.name, scopes)
            costs.append(NodeCost(node.name, node.op_type, module, shapes[node.output[0]], macs))
    return tuple(sorted(costs, key=lambda p: -p.macs)), tuple(uncounted)


def _differing_nodes(left: onnx.ModelProto, right: onnx.ModelProto) -> list[Difference]:
    """Nodes of one name whose operator or attributes differ."""
    ours = {n.name: n for n in left.graph.node if n.name}
    differences = []
    for node in right.graph.node:
        twin = ours.get(node.name)
        if twin is None:
            continue
        one, two = _words(twin), _words(node)
        if one != two:
            differences.append(Difference(f"node {node.name}", one, two))
    return differences


def _words(node: onnx.NodeProto) -> str:
    attributes = sorted((a.name, onnx.helper.get_attribute_value(a)) for a in node.attribute if a.type != a.GRAPH)
    arguments = ", ".join(f"{n}={_short(v)}" for n, v in attributes)
    return f"{node.op_type}({arguments})"


def _short(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value).tolist()
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value))[:60]


def _differing_weights(left: onnx.ModelProto, right: onnx.ModelProto) -> list[Difference]:
    """Weights of one name with other types, shapes or numbers, and weights that only one file has."""
    ours = {i.name: i for i in left.graph.initializer}
    theirs = {i.name: i for i in right.graph.initializer}
    differences = []
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or _kind(a) != _kind(b):
            differences.append(Difference(f"weights {name}", _kind(a), _kind(b)))
        elif a.SerializeToString() != b.SerializeToString():
            if np.array_equal(array_of(a), array_of(b)):  # the same numbers at other places
                continue
            x, y = (array_of(t).astype(np.float64) for t in (a, b))
            largest = float(np.abs(x - y).max()) if x.size else 0.0
            if not np.array_equal(x, y, equal_nan=True):
                differences.append(
                    Difference(f"weights {name}", _kind(a), f"the same, other numbers (up to {largest:.3g} apart)")
                )
    return differences


def _kind(tensor: onnx.TensorProto | None) -> str:
    return "" if tensor is None else f"{_dtype(tensor.data_type)}[{', '.join(map(str, tensor.dims))}]"


def _dtype(number: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return _NAMES.get(name, name)
