"""Calibration data from a file: real inputs, in batches that a graph takes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import sha256_of
from attn_deploy.inputs import Arrays, TensorInput

BATCH = 8


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Inputs from a file.

    Attributes:
        batches: arrays by input name.
        identity: name and sha256 of the file, and how many samples it holds.
    """

    batches: tuple[Arrays, ...]
    identity: Mapping[str, str]


def read_calibration(path: Path, inputs: Sequence[TensorInput], symbols: Sequence[str]) -> CalibrationData:
    """Read an ``.npz`` that holds an array for each input, whose first axis runs over the samples.

    Args:
        path: the file.
        inputs: of the graph; the first axis of each is its batch.
        symbols: those that move.

    Raises:
        InvalidRequestError: if the file cannot be read, or an array does not fit its input.
    """
    arrays = _arrays(path)
    missing = [i.name for i in inputs if i.name not in arrays]
    if missing:
        raise InvalidRequestError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, and the graph's input {missing[0]!r} is not among them: save "
            f"one array for each input, as np.savez({path.name!r}, {missing[0]}=samples)."
        )
    chosen = {i.name: _fitting(path, arrays[i.name], i, symbols) for i in inputs}
    counts = {len(a) for a in chosen.values()}
    if len(counts) > 1:
        raise InvalidRequestError(f"{path}: the arrays hold {sorted(counts)} samples; give the same number of each.")
    [count] = counts
    first = inputs[0]
    size = min(BATCH, count) if first.dims[0] in symbols else first.shape()[0]
    if count < size or count == 0:
        raise InvalidRequestError(f"{path} holds {count} samples, and the graph takes {size} at a time.")
    starts = range(0, count - size + 1, size)
    batches = tuple({n: np.ascontiguousarray(a[s : s + size]) for n, a in chosen.items()} for s in starts)
    return CalibrationData(batches, {"data": path.name, "sha256": sha256_of(path), "samples": str(count)})


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidRequestError(f"{path} cannot be read as an .npz of arrays: {error}") from error


def _fitting(path: Path, array: NDArray[Any], given: TensorInput, symbols: Sequence[str]) -> NDArray[Any]:
    wanted = given.shape()
    fits = array.ndim == len(wanted) and all(
        extent == n or any(s in str(dim) for s in symbols)
        for extent, n, dim in zip(array.shape[1:], wanted[1:], given.dims[1:], strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            f"{path}: {given.name!r} has the shape {array.shape}, and the graph takes ({', '.join(map(str, given.dims))})."
        )
    return array.astype(given.dtype)
