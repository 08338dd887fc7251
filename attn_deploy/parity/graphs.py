"""Comparing two ONNX graphs with each other in ONNX Runtime, without the model they came from."""

from __future__ import annotations

import re

import onnx

from attn_deploy.errors import GraphError
from attn_deploy.graph.heads import read_outputs
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import TensorInput, fit_size
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import compare
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_NUMPY_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.BOOL: "bool",
}
_DEFAULT_EXTENTS = {"N": 2, "H": 17, "W": 22}
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # what windows, patches and strides ask of an image's extents


def graph_inputs(model: onnx.ModelProto, multiple: int = 1) -> tuple[TensorInput, ...]:
    """The inputs of a graph with their symbolic axes; an axis that is an expression keeps it (``2*H``).

    Args:
        model: the graph.
        multiple: what the extent of every symbol but the batch must be a multiple of.

    Raises:
        GraphError: if an input has an element type that no test tensor can be made for, or no rank.
    """
    initializers = {i.name for i in model.graph.initializer}
    values = [v for v in model.graph.input if v.name not in initializers]
    raw: list[tuple[str, str, list[int | str]]] = []
    named: dict[str, str] = {}  # one file symbol is one symbol here, wherever it stands
    for value in values:
        tensor = value.type.tensor_type
        if tensor.elem_type not in _NUMPY_TYPES or not tensor.HasField("shape"):
            raise GraphError(f"input {value.name!r} has no usable element type or rank; it cannot be tested.")
        dims: list[int | str] = []
        for axis, d in enumerate(tensor.shape.dim):
            if d.HasField("dim_value"):
                dims.append(int(d.dim_value))
            else:
                symbol = _symbol(d.dim_param, axis, len(tensor.shape.dim))
                dims.append(named.setdefault(d.dim_param, symbol) if d.dim_param else f"{symbol}{len(named)}")
        raw.append((value.name, _NUMPY_TYPES[tensor.elem_type], dims))
    symbols = dict.fromkeys(
        s for _, _, dims in raw for d in dims if isinstance(d, str) for s in re.findall(r"[A-Z]\w*", d)
    )
    steps = {s: multiple for s in symbols if s[0] != "N"}
    plain = {s: _DEFAULT_EXTENTS.get(s[0], 9) for s in symbols}
    probe = TensorInput("", (), "float32", plain, {}, steps)
    sizes = {s: fit_size(extent, s, probe) for s, extent in plain.items()}
    return tuple(TensorInput(name, tuple(dims), dtype, sizes, {}, steps) for name, dtype, dims in raw)


def _symbol(text: str, axis: int, rank: int) -> str:
    """The file's own symbol if it is one of ours, else a capital letter by position (N first; H and W of rank 4)."""
    if re.fullmatch(r"[\s\d*+/()-]*[A-Z]\w*[\s\d*+/()-]*", text):
        return text
    letter = "N" if axis == 0 else {2: "H", 3: "W"}.get(axis, f"D{axis}") if rank == 4 else f"D{axis}"
    word = re.sub(r"\W", "_", text)
    return f"{letter}_{word}" if word else letter


def compare_models(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    *,
    tolerance: Tolerance = TOLERANCES["float32"],
    optimize: bool = True,
) -> ParityReport:
    """Run two graphs with the same interface at several sizes of their symbolic axes.

    Args:
        reference: what is right.
        candidate: what is tested.
        tolerance: see `attn_deploy.parity.tolerance`.
        optimize: let ONNX Runtime optimise both; off compares what the graphs say, step by step.

    Raises:
        GraphError: if a graph cannot be loaded, its inputs cannot be made, or it runs at no size that was tried.
    """
    wider, reading = read_outputs(reference)
    before = OnnxRuntimeRunner(wider.SerializeToString(), optimize=optimize)
    after = OnnxRuntimeRunner(candidate.SerializeToString(), optimize=optimize)
    inputs, symbols = runnable_inputs(reference, before)
    return compare(before, after, inputs, symbols, tolerance=tolerance, reading=reading)


def runnable_inputs(model: onnx.ModelProto, runner: Runner) -> tuple[tuple[TensorInput, ...], tuple[str, ...]]:
    """Inputs of a graph, and the symbols that move, at whose sizes the graph itself runs.

    Raises:
        GraphError: if it runs at no size that was tried.
    """
    first: GraphError | None = None
    for multiple in _MULTIPLES:
        inputs = graph_inputs(model, multiple)
        symbols = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
        try:
            for sizes in [{}, *verification_sizes(inputs, symbols)]:
                run_once(runner, example_arrays(inputs, sizes))
        except GraphError as error:
            first = first or error
            if not symbols:
                break
            continue
        return inputs, symbols
    tried = "at its own sizes" if not symbols else f"at any size that was tried (multiples of {_MULTIPLES})"
    raise GraphError(f"the reference graph does not run {tried}: {first}")
