"""``--sample``: the user's own inputs, which join the proof. No torch here."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import require_regular
from attn_deploy.inputs.tensors import TensorInput

Sample = Mapping[str, NDArray[Any]]
_MEMORY = 1 << 34  # bytes of all arrays of a file, at most


def parse_samples(texts: Sequence[str | Path | Sample] | None) -> tuple[Sample, ...]:
    """The samples that ``--sample`` options describe: ``FILE.npz`` with arrays by input name, or ``name=VALUES``.

    VALUES are numbers separated by commas, or nested lists as in JSON: ``orig_size=60,90``, ``mask=[[true,false]]``.

    Raises:
        InvalidRequestError: if one cannot be read.
    """
    return tuple(_read(t) for t in texts or ())


def _read(text: str | Path | Sample) -> Sample:
    if isinstance(text, Mapping):
        return {n: np.asarray(v) for n, v in text.items()}
    if isinstance(text, Path) or text.endswith(".npz"):
        arrays = load_arrays(Path(text))
        if not arrays:
            raise InvalidRequestError(f"{text} holds no arrays; save one for each input, by name, with numpy.savez.")
        return arrays
    match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*=\s*(.+)", text, re.DOTALL)
    if match is None:
        raise InvalidRequestError(
            f"--sample {text!r} is neither a file FILE.npz nor name=VALUES, as in --sample orig_size=60,90."
        )
    return {match[1]: read_values(match[2], f"--sample {text!r}")}


def read_values(text: str, what: str) -> NDArray[Any]:
    """The array that ``60,90`` or ``[[true, false]]`` stands for; ``what`` is its name in messages.

    Raises:
        InvalidRequestError: if it is neither.
    """
    values = text.strip()
    try:
        array = np.asarray(json.loads(values if values.startswith("[") else f"[{values}]"))
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it is of type {array.dtype}")
        return array
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{what}: {values[:100]!r} is no list of numbers; write 60,90 or [[true, false]]."
        ) from error


def require_arrays(path: Path) -> None:
    """Refuse what is no archive of arrays by its table of contents, without unpacking any.

    Raises:
        InvalidRequestError: saying what is there.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # of a dozen classes
        raise InvalidRequestError(
            f"{path} cannot be read as an .npz of arrays: {error or type(error).__name__}"
        ) from error
    size = sum(m.file_size for m in members)
    for member in members:
        if not member.filename.endswith(".npy"):
            raise InvalidRequestError(f"{path}: {member.filename!r} is no array.")
    if size > _MEMORY:
        raise InvalidRequestError(f"{path} unpacks to {size:,} bytes, more than the {_MEMORY:,} that are read.")


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``: numbers and booleans only.

    Raises:
        InvalidRequestError: naming the member that is something else, or why the file cannot be read.
    """
    require_arrays(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib have errors of a dozen classes
        raise InvalidRequestError(
            f"{path} cannot be read as an .npz of arrays: {error or type(error).__name__}"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # what else an archive holds is handed out as bytes
            raise InvalidRequestError(f"{path}: {name!r} is no array.")
        if array.dtype.kind not in "biuf":
            raise InvalidRequestError(
                f"{path}: {name!r} is {array.dtype} of shape {array.shape}; only numbers and booleans can be used."
            )
    return arrays


def with_samples(inputs: Sequence[TensorInput], samples: Sequence[Sample], owner: str) -> tuple[TensorInput, ...]:
    """The inputs with the user's values.

    Args:
        inputs: the inputs of a model.
        samples: each with values of one or more inputs.
        owner: the model's name in messages.

    Raises:
        InvalidRequestError: if a sample names no input, or has another rank, type or fixed extent than the input.
    """
    if not samples:
        return tuple(inputs)
    by_name = {i.name: i for i in inputs}
    values: dict[str, list[NDArray[Any]]] = {n: [] for n in by_name}
    for sample in samples:
        for name, array in sample.items():
            only = next(iter(by_name)) if len(by_name) == len(sample) == 1 else name
            if only not in by_name:
                raise InvalidRequestError(
                    f"{owner}: the sample has values for {name!r}, and the inputs are {', '.join(by_name)}."
                )
            values[only].append(_fitting(by_name[only], array, owner))
    return tuple(replace(i, values=tuple(values[i.name])) for i in inputs)


def _fitting(tensor: TensorInput, array: NDArray[Any], owner: str) -> NDArray[Any]:
    if not tensor.dims and array.size == 1:  # a lone number, which the text cannot tell from a list of one
        array = array.reshape(())
    if array.ndim != len(tensor.dims) or array.size == 0:
        raise InvalidRequestError(
            f"{owner}: the sample of {tensor.name!r} has the shape {array.shape}; the input is "
            f"({', '.join(map(str, tensor.dims))})."
        )
    differing = [n for n, d in zip(array.shape, tensor.dims, strict=True) if isinstance(d, int) and d != n]
    if differing:
        raise InvalidRequestError(
            f"{owner}: the sample of {tensor.name!r} has the shape {array.shape}; the input is "
            f"({', '.join(map(str, tensor.dims))}), and only axes with a name may differ."
        )
    kind = np.dtype(tensor.dtype)
    if array.dtype.kind not in ("biu" if kind.kind == "b" else "biuf" if kind.kind in "iu" else "iuf"):
        raise InvalidRequestError(
            f"{owner}: the sample of {tensor.name!r} is {array.dtype} of shape {array.shape}, and the input is {tensor.dtype}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(kind)
    wrong = ~(cast == array) if kind.kind in "iub" else np.isinf(cast) & np.isfinite(array)
    if wrong.any():  # written one by one: how numpy prints an array, some packages change for the whole process
        first = ", ".join(f"{v:g}" for v in array[wrong].reshape(-1)[:4])
        raise InvalidRequestError(
            f"{owner}: the sample of {tensor.name!r} holds values that are not {tensor.dtype}: {first}."
        )
    return cast
