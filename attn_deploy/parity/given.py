"""Inputs of a graph as its user gives them: shapes with ``--input``, arrays with ``--sample``. No torch here.

``--sample FILE.npz`` holds an array for each input; ``--sample NAME=VALUES`` those of one, beside which the others are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.inputs.user_samples import load_arrays, read_values


@dataclass(frozen=True, slots=True)
class GivenInputs:
    """What the user says of the inputs.

    Attributes:
        shapes: by input name.
        samples: arrays by input name, as the graph takes them, the batch included.
        values: of single inputs, where no sample gives all of them.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: tuple[Arrays, ...] = ()
    values: Mapping[str, tuple[NDArray[Any], ...]] = field(default_factory=dict)


def given_inputs(model: onnx.ModelProto, shapes: Sequence[str] = (), samples: Sequence[Path | str] = ()) -> GivenInputs:
    """Read what the user gives, and hold it against the graph.

    Args:
        model: the graph.
        shapes: ``NAME:1x3x64x64``, or the shape alone where there is one input or all are given in order. Names may
            hold colons and slashes.
        samples: ``.npz`` files, each with one array for each input; or ``NAME=VALUES`` of a single one, as ``rate=16000``.

    Raises:
        InvalidRequestError: naming the input and both shapes or types.
    """
    inputs = _inputs(model)
    read = [_read(text, inputs) for text in shapes]
    if any(name is None for name, _ in read) and len(read) != len(inputs):
        raise InvalidRequestError(
            f"--input {shapes[0]}: the graph has {len(inputs)} inputs ({', '.join(inputs)}); write NAME:SHAPE for each."
        )
    table: dict[str, tuple[int, ...]] = {}
    for (name, shape), place in zip(read, inputs, strict=False):
        key = place if name is None else name
        if key in table:
            raise InvalidRequestError(f"--input gives the shape of {key!r} twice.")
        _check_shape(f"--input {key}", shape, inputs[key])
        table[key] = shape
    values: dict[str, tuple[NDArray[Any], ...]] = {}
    arrays: list[Arrays] = []
    for source in samples:
        if str(source).endswith(".npz"):
            arrays.append(read_sample(model, Path(source)))
            continue
        key, array = _read_values(str(source), inputs)
        values[key] = (*values.get(key, ()), array)
    whole = tuple({n: values[n][0] if n in values else a for n, a in one.items()} for one in arrays)
    return GivenInputs(table, whole, values)


def _read_values(text: str, inputs: Mapping[str, onnx.ValueInfoProto]) -> tuple[str, NDArray[Any]]:
    """The input that ``NAME=VALUES`` names, and its values, of its rank where they are a single number or row."""
    name = max((n for n in inputs if text.startswith(f"{n}=")), key=len, default=None)
    if name is None:
        raise InvalidRequestError(
            f"--sample {text!r} is neither a file FILE.npz nor NAME=VALUES of an input; the inputs are {', '.join(inputs)}."
        )
    array = read_values(text[len(name) + 1 :], f"--sample {text!r}")
    rank = len(inputs[name].type.tensor_type.shape.dim)
    if array.ndim == 1 and (rank == 0) == (array.size == 1) and rank != 1:
        array = array.reshape((1,) * (rank - 1) + array.shape if rank else ())
    _check_shape(f"--sample {name}", array.shape, inputs[name])
    return name, as_type(array, _numpy_type(inputs[name]), f"--sample {name}")


def read_sample(model: onnx.ModelProto, path: Path) -> Arrays:
    """One set of inputs from an ``.npz``, checked against the graph and of its types.

    Raises:
        InvalidRequestError: if the file cannot be read, an input is missing, or an array does not fit.
    """
    return fitted_to_graph(model, load_arrays(path), path.name)


def fitted_to_graph(model: onnx.ModelProto, given: Mapping[str, NDArray[Any]], what: str) -> Arrays:
    """Arrays as the inputs of a graph, checked and of its types; ``what`` is where they come from.

    Raises:
        InvalidRequestError: if an input is missing, or an array does not fit.
    """
    inputs, arrays = _inputs(model), dict(given)
    if len(inputs) == len(arrays) == 1:  # np.savez(path, array) calls it arr_0
        arrays = {next(iter(inputs)): next(iter(arrays.values()))}
    missing = [n for n in inputs if n not in arrays]
    if missing:
        raise InvalidRequestError(
            f"{what} holds {', '.join(arrays) or 'no array'}, and the graph's input {missing[0]!r} is not among them: save one "
            f"array for each input, as np.savez('inputs.npz', **{{{missing[0]!r}: array}})."
        )
    sample = {}
    for name, value in inputs.items():
        _check_shape(f"{what}: {name!r}", arrays[name].shape, value)
        sample[name] = as_type(arrays[name], _numpy_type(value), f"{what}: {name!r}")
    return sample


def as_type(array: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """An array in the type of its input, where no value changes but by rounding a float.

    Raises:
        InvalidRequestError: naming both types.
    """
    if array.dtype == dtype:
        return np.asarray(array, order="C")
    if (dtype.kind in "biu" and array.dtype.kind == "f") or (array.dtype.kind == "b") != (dtype.kind == "b"):
        raise InvalidRequestError(
            f"{what} is {array.dtype} of shape {array.shape}, and the graph takes {dtype}; save it in that type."
        )
    with np.errstate(over="ignore"):
        typed: NDArray[Any] = np.asarray(array.astype(dtype), order="C")
    finite = dtype.kind not in "f" or np.array_equal(np.isfinite(typed), np.isfinite(array))
    if not finite or (dtype.kind in "biu" and not np.array_equal(typed, array)):
        raise InvalidRequestError(
            f"{what} is {array.dtype} with values that {dtype}, which the graph takes, cannot hold."
        )
    return typed


def _inputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    weights = {i.name for i in model.graph.initializer}
    return {i.name: i for i in model.graph.input if i.name not in weights}


def _read(text: str, inputs: Mapping[str, onnx.ValueInfoProto]) -> tuple[str | None, tuple[int, ...]]:
    """The name that a text begins with, the longest of the graph's; and the shape behind it."""
    name = max((n for n in inputs if text.startswith(f"{n}:")), key=len, default=None)
    rest = text if name is None else text[len(name) + 1 :]
    match = re.fullmatch(r"(\d+(?:[x,]\d+)*)(?::(\w+))?", rest.strip())
    if match is None:
        raise InvalidRequestError(
            f"--input {text!r} cannot be read; the graph's inputs are {', '.join(inputs)}: write "
            f"{next(iter(inputs), 'x')}:1x3x224x224."
        )
    shape = tuple(int(n) for n in re.split("[x,]", match[1]))
    if min(shape) < 1:
        raise InvalidRequestError(f"--input {text!r} has an axis of length 0; every axis needs at least 1.")
    return name, shape


def _check_shape(what: str, shape: Sequence[int], value: onnx.ValueInfoProto) -> None:
    dims = value.type.tensor_type.shape.dim
    fits = len(dims) == len(shape) and all(
        not d.HasField("dim_value") or d.dim_value == n for d, n in zip(dims, shape, strict=True)
    )
    if not fits and value.type.tensor_type.HasField("shape"):
        takes = ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
        raise InvalidRequestError(f"{what} has the shape {'x'.join(map(str, shape))}, and the graph takes ({takes}).")


def _numpy_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
