"""Running an ONNX file on data, with its outputs in an `.npz`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.conversion.calibration import NO_OPTIONS, read_calibration
from attn_deploy.conversion.images import assumed_preprocess, image_batches
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions, images_of_record
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import output_file, write_atomic
from attn_deploy.graph.artifact import open_model
from attn_deploy.graph.evidence import read_evidence
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.inputs.user_samples import load_arrays
from attn_deploy.parity.given import given_inputs, read_sample
from attn_deploy.parity.graphs import graph_inputs
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave.

    Attributes:
        outputs: by name; runs whose shapes differ stand side by side as ``name[0]``, ``name[1]``.
        runs: how many.
        prepared: what was done to images; empty for arrays.
    """

    outputs: dict[str, NDArray[Any]]
    runs: int
    prepared: str = ""


def run_file(
    path: Path | str,
    data: Path | str,
    *,
    output: Path | str | None = None,
    size: tuple[int, int] | None = None,
    preprocess: PreprocessOptions = NO_OPTIONS,
    inputs: Sequence[str] = (),
) -> RunResult:
    """Run an ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the file.
        data: an ``.npz`` with an array for each input (one call, or samples along the first axis of a graph with a fixed
            batch), an image, or a folder of images in the order of their names.
        output: ``.npz`` to write.
        size: height and width of images, where the graph takes any.
        preprocess: what is done to images.
        inputs: shapes, as ``NAME:1x3x64x64``, that hold the size of images too.

    Raises:
        InvalidRequestError: if the data do not fit, or an array is empty.
        DatasetError: if an image cannot be read.
        GraphError: if the file cannot be read or does not run.
    """
    path, source = Path(path), Path(data)
    if output is not None:
        output = output_file(output, path.with_name(f"{path.stem}-outputs.npz"), (".npz",))
    model, _ = open_model(path, light=True)
    runner = OnnxRuntimeRunner(path)
    prepared = ""
    if source.suffix == ".npz":
        preprocess.refuse_without_images(f"{source} holds arrays, which go in as they are")
        batches = _arrays(model, source)
    elif source.exists():
        given = given_inputs(model, inputs)
        shape = next(iter(given.shapes.values()), None)
        wish = size or (None if shape is None or len(shape) != 4 else (shape[2], shape[3]))
        tensors = graph_inputs(model)
        batches, prepared = image_batches(source, tensors, wish, preprocess.over(_usual(model)))
    else:
        raise InvalidRequestError(
            f"{source} not found: give an .npz with an array for each input, an image or a folder."
        )
    _refuse_nothing(source, batches)
    results = [run_once(runner, batch) for batch in batches]
    runner.close()
    outputs = _joined(results)
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **outputs)  # type: ignore[arg-type]
        write_atomic(Path(output), buffer.getvalue())
    return RunResult(outputs, len(results), prepared)


def _refuse_nothing(source: Path, batches: Sequence[Arrays]) -> None:
    """Of no sample there is no answer, and an empty one would look like one."""
    for name, array in ((n, a) for batch in batches for n, a in batch.items()):
        if array.size == 0:
            shape = "x".join(map(str, array.shape))
            raise InvalidRequestError(f"{source}: the array for {name!r} is empty ({shape}): there is nothing to run.")


def _usual(model: Any) -> Preprocess:
    """As the record of the file's export says; else ImageNet's values."""
    evidence = read_evidence(model)
    return (images_of_record(evidence.record) if evidence is not None else None) or assumed_preprocess()


def _arrays(model: Any, source: Path) -> Sequence[Arrays]:
    """One call, or, for a graph of a fixed batch, its samples."""
    tensors = graph_inputs(model)
    try:
        return [read_sample(model, source)]
    except InvalidRequestError as error:
        arrays = load_arrays(source)
        first = tensors[0]
        many = first.name in arrays and arrays[first.name].ndim == len(first.dims)
        if not many or not isinstance(first.dims[0], int) or len(arrays[first.name]) <= first.dims[0]:
            raise error
        data = read_calibration(source, tensors, ()).whole()
        return data.batches


def _joined(results: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    outputs: dict[str, NDArray[Any]] = {}
    for name in results[0]:
        values = [r[name] for r in results]
        if len(values) == 1:
            outputs[name] = values[0]
        elif all(v.ndim and v.shape[1:] == values[0].shape[1:] for v in values):
            outputs[name] = np.concatenate(values)
        else:
            outputs |= {f"{name}[{k}]": v for k, v in enumerate(values)}
    return outputs
