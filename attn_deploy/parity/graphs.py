"""Comparing two ONNX graphs with each other in ONNX Runtime, without the model they came from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from attn_deploy.errors import AttnDeployError, GraphError
from attn_deploy.graph.heads import read_outputs
from attn_deploy.graph.integers import integer_bounds, integer_choices
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.inputs.samples import PIXELS, example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays, TensorInput, fit_size
from attn_deploy.parity.given import GivenInputs
from attn_deploy.parity.reference import RememberingRunner
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import compare, compare_on
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.graphs import graph_runner

_NUMPY_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.UINT32: "uint32",
    onnx.TensorProto.UINT64: "uint64",
    onnx.TensorProto.BOOL: "bool",
}
_DEFAULT_EXTENTS = {"N": 2, "H": 17, "W": 22}
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # what windows, patches and strides ask of an image's extents
_SCALES = (8, 256)  # then: images of a few hundred pixels, sequences of thousands of samples
# Last: the windows that networks for sound and other signals take, some of them a single one.
_WINDOWS = (256, 288, 320, 400, 480, 512, 576, 640, 768, 800, 960, 1024, 1280, 1536, 2048, 4096, 8000, 16000)
_LARGEST_INPUT = 1 << 30  # elements of a test tensor
_NOTHING = GivenInputs()


def graph_inputs(
    model: onnx.ModelProto, multiple: int = 1, *, scale: int = 1, tied: bool = True, window: int | None = None
) -> tuple[TensorInput, ...]:
    """The inputs of a graph with their symbolic axes; an axis that is an expression keeps it (``2*H``).

    Args:
        model: the graph.
        multiple: what the extent of every symbol but the batch must be a multiple of.
        scale: by which the usual extents of all but the batch are multiplied.
        tied: whether axes without a name, or with one name at several places of an input, have one extent wherever they
            stand at one place; otherwise each has its own.
        window: the extent of all but the batch, in place of the usual ones.

    Raises:
        GraphError: if an input has an element type that no test tensor can be made for, no rank, or a size of 0 or below,
            or beyond what fits in memory.
    """
    initializers = {i.name for i in model.graph.initializer}
    values = [v for v in model.graph.input if v.name not in initializers]
    names = _Symbols(tied)
    raw: list[tuple[str, str, list[int | str]]] = []
    for index, value in enumerate(values):
        tensor = value.type.tensor_type
        if tensor.elem_type not in _NUMPY_TYPES or not tensor.HasField("shape"):
            raise GraphError(f"input {value.name!r} has no usable element type or rank; it cannot be tested.")
        dims = names.of(tensor.shape, index)
        fixed = [d for d in dims if isinstance(d, int)]
        if any(d < 1 for d in fixed):
            raise GraphError(
                f"the input {value.name!r} has the fixed size {min(fixed)} on an axis, so nothing can be run on it. Export the "
                "model with sizes of at least 1."
            )
        if math.prod(fixed) > _LARGEST_INPUT:
            raise GraphError(f"the input {value.name!r} has {math.prod(fixed):,} elements, more than can be tested.")
        raw.append((value.name, _NUMPY_TYPES[tensor.elem_type], dims))
    symbols = dict.fromkeys(
        s for _, _, dims in raw for d in dims if isinstance(d, str) for s in re.findall(r"[A-Z]\w*", d)
    )
    steps = {s: multiple for s in symbols if s[0] != "N"}
    plain = {s: _DEFAULT_EXTENTS.get(s[0], 9) * (1 if s[0] == "N" else scale) for s in symbols}
    if window is not None:
        plain |= {s: window for s in symbols if s[0] != "N"}
    probe = TensorInput("", (), "float32", plain, {}, steps)
    sizes = {s: fit_size(extent, s, probe) for s, extent in plain.items()}
    bounds = integer_bounds(model)
    choices = integer_choices(model)
    own = {n: tuple(np.full([1] * len(d), v, t) for v in choices.get(n, ())) for n, t, d in raw}
    return tuple(
        TensorInput(
            name,
            tuple(dims),
            dtype,
            sizes,
            {},
            steps,
            bound=bounds.get(name, _bound(dtype, dims)),
            values=own[name],
        )
        for name, dtype, dims in raw
    )


def _bound(dtype: str, dims: Sequence[int | str]) -> int | None:
    """Bytes in four axes are images."""
    return PIXELS if dtype == "uint8" and len(dims) == 4 else None


class _Symbols:
    """One symbol for each axis of the file that moves by itself."""

    def __init__(self, tied: bool) -> None:
        self._tied = tied
        self._known: dict[object, str] = {}

    def of(self, shape: onnx.TensorShapeProto, index: int) -> list[int | str]:
        """The axes of one input, the ``index``-th."""
        rank = len(shape.dim)
        texts = [d.dim_param for d in shape.dim if not d.HasField("dim_value")]
        dims: list[int | str] = []
        for axis, d in enumerate(shape.dim):
            if d.HasField("dim_value"):
                dims.append(int(d.dim_value))
                continue
            text = d.dim_param.strip()
            if _is_expression(text):
                dims.append(text)  # one of ours, or as ours are
                continue
            letter = "N" if axis == 0 else {2: "H", 3: "W"}.get(axis, f"D{axis}") if rank == 4 else f"D{axis}"
            if index and rank == 3 and axis == 1 and len(texts) == 1:  # the state of a recurrence: layers, batch, width
                letter = "N"
            word = re.sub(r"\W", "_", text).strip("_")
            if word and texts.count(d.dim_param) == 1:
                key: object = text
            else:  # without a name, or with one that stands for any size: the place says which axis it is
                key = (text, letter) if self._tied else (text, letter, index)
                word = word if self._tied else f"{word}_{index}".strip("_")
            dims.append(self._known.setdefault(key, f"{letter}_{word}" if word else letter))
        return dims


def _is_expression(text: str) -> bool:
    """Whether a symbol of a file is one of ours, or an expression of one, that gives sizes."""
    if not re.fullmatch(r"[\s\d*+/()-]*[A-Z]\w*[\s\d*+/()-]*", text):
        return False
    try:
        return all(evaluate_expression(text, dict.fromkeys(re.findall(r"[A-Z]\w*", text), n)) > 0 for n in (8, 64))
    except (AttnDeployError, SyntaxError, ArithmeticError):
        return False


def compare_models(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    *,
    tolerance: Tolerance = TOLERANCES["float32"],
    optimize: bool = True,
    given: GivenInputs = _NOTHING,
) -> ParityReport:
    """Run two graphs with the same interface at several sizes of their symbolic axes, or on what is given.

    Args:
        reference: what is right.
        candidate: what is tested.
        tolerance: see `attn_deploy.parity.tolerance`.
        optimize: let ONNX Runtime optimise both; off compares what the graphs say, step by step.
        given: shapes and samples of the user's.

    Raises:
        GraphError: if a graph cannot be loaded, its inputs cannot be made, or it runs at no size that was tried.
    """
    wider, reading = read_outputs(reference)
    before = RememberingRunner(graph_runner(wider, optimize=optimize))  # run at each size when it is looked for, too
    after = graph_runner(candidate, optimize=optimize)
    if given.samples:
        batches = with_other_batches(given.samples, reference, before)
        return compare_on(before, after, batches, tolerance=tolerance, reading=reading)
    inputs, symbols = runnable_inputs(reference, before, given)
    return compare(before, after, inputs, symbols, tolerance=tolerance, reading=reading)


def with_other_batches(samples: tuple[Arrays, ...], model: onnx.ModelProto, runner: Runner) -> list[Arrays]:
    """Samples, and the first of them with twice the batch where the graph takes that."""
    first = samples[0]
    moves = [i for i in model.graph.input if i.name in first and not i.type.tensor_type.shape.dim[:1]]
    batches = [i for i in model.graph.input if i.name in first and i not in moves]
    if moves or any(i.type.tensor_type.shape.dim[0].HasField("dim_value") for i in batches):
        return list(samples)
    twice = {n: a.repeat(2, axis=0) for n, a in first.items()}
    try:
        run_once(runner, twice)
    except GraphError:
        return list(samples)
    return [*samples, twice]


def inputs_of_samples(model: onnx.ModelProto, sample: Arrays) -> tuple[TensorInput, ...]:
    """The inputs of a graph at the sizes of a sample."""
    return _at(graph_inputs(model), {n: tuple(a.shape) for n, a in sample.items()})


def _at(inputs: tuple[TensorInput, ...], shapes: dict[str, tuple[int, ...]]) -> tuple[TensorInput, ...]:
    """Inputs whose symbols have the extents of some shapes."""
    sizes = dict(inputs[0].sizes) if inputs else {}
    for i in inputs:
        for dim, extent in zip(i.dims, shapes.get(i.name, ()), strict=False):
            if isinstance(dim, str) and dim in sizes:
                sizes[dim] = extent
    return tuple(replace(i, sizes=sizes) for i in inputs)


def _readings(model: onnx.ModelProto) -> Iterator[tuple[TensorInput, ...]]:
    """Inputs to try, the likeliest first."""
    plain = graph_inputs(model)
    ties = (True, False) if any(i.symbols for i in plain[1:]) else (True,)
    for multiple in _MULTIPLES:
        for tied in ties:
            yield graph_inputs(model, multiple, tied=tied)
    for scale in _SCALES:
        if scale == _SCALES[0] or not any(len(i.dims) > 3 for i in plain):  # images of 5,000 pixels say nothing more
            yield graph_inputs(model, 32, scale=scale)
    if not any(len(i.dims) > 3 for i in plain):
        for window in _WINDOWS:
            yield graph_inputs(model, window=window)


def runnable_inputs(
    model: onnx.ModelProto, runner: Runner, given: GivenInputs = _NOTHING
) -> tuple[tuple[TensorInput, ...], tuple[str, ...]]:
    """Inputs of a graph, and the symbols that move, at whose sizes the graph itself runs.

    Shapes that are given are held: only the axes of other inputs, and the batch where the graph takes it, move.

    Raises:
        GraphError: if it runs at no size that was tried.
    """
    shapes = dict(given.shapes) or ({n: tuple(a.shape) for n, a in given.samples[0].items()} if given.samples else {})
    first: GraphError | None = None
    shapes |= {n: tuple(v[0].shape) for n, v in given.values.items() if n not in shapes}
    for candidate in _readings(model):
        inputs = tuple(replace(i, values=given.values.get(i.name, i.values)) for i in _at(candidate, shapes))
        symbols = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
        held = {s for i in inputs if i.name in shapes for s in i.symbols}
        # A window may be the only one that the graph takes; what is given is held but for the batch.
        single = bool(symbols) and all(inputs[0].sizes[s] in _WINDOWS for s in symbols if s[0] != "N")
        loose = tuple(s for s in symbols if s[0] == "N" or (held and s not in held))
        for moving in dict.fromkeys([symbols, loose, ()] if held or single else [symbols]):
            try:
                for sizes in [{}, *verification_sizes(inputs, moving)]:
                    run_once(runner, example_arrays(inputs, sizes))
            except GraphError as error:
                first = first or error
                continue
            return inputs, moving
        if not symbols:
            break
    if shapes:
        shown = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in shapes.items())
        raise GraphError(f"the graph does not run on {shown}: {first}")
    raise GraphError(
        f"the graph does not run {'on test data at its own sizes' if not symbols else 'at any size that was tried'}: {first} "
        "Give shapes that it takes, --input NAME:1x3x224x224, or real inputs, --sample FILE.npz."
    )
