"""Loading a user's checkpoint into a model, with every key accounted for."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.files import require_regular, sha256_of
from attn_deploy.reading import read_typed, typed
from attn_deploy.resolve.insert import is_inserted
from attn_deploy.resolve.pickle_names import names_in
from attn_deploy.resolve.snapshots import hash_of, published_state, weight_files
from attn_deploy.resolve.state_dicts import ChosenState, choose_state, fit_names, tables_among

# The files of a training run.
RECORD, WEIGHTS = "record.json", "model.safetensors"
HEADER = "attn_deploy"  # key of our JSON in the header of model.safetensors


def load_weights(model: nn.Module, path: Path | str, label: str, *, key: str | None = None) -> tuple[str, ...]:
    """Load a checkpoint into ``model`` in place.

    What training scripts write around the weights is understood (see `attn_deploy.resolve.state_dicts`). Nothing is
    executed: pickles are read with ``weights_only=True``.

    Args:
        model: what is loaded into.
        path: the checkpoint.
        label: the model's name in messages.
        key: which of several state dicts; None for averaged weights where there are some, else the model's own.

    Returns:
        The file's name and its sha256; where the file offers a choice also what of it was taken, in words.

    Raises:
        InvalidRequestError: if the file cannot be read or is no checkpoint, or a key or a shape does not fit.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidRequestError(f"there is no checkpoint {str(path)!r}.")
    expected = model.state_dict()
    published = published_state(model, path, label) if key is None else None
    if published is None:
        chosen = choose_state(read_checkpoint(path), path, key)
    else:
        chosen = ChosenState(*published)
    fitted = fit_names(chosen.state, set(expected))
    state = fitted.state
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    if not any(map(is_inserted, state)):  # of the network before a module was put into it, which keeps its values
        missing = [k for k in missing if not is_inserted(k)]
    unexpected = [k for k in state if k not in expected]
    tables = tables_among(model, missing, unexpected, state)
    missing = [k for k in missing if k not in tables.kept]
    unexpected = [k for k in unexpected if k not in tables.left_out]
    if missing or unexpected:
        raise InvalidRequestError(f"{label}: {path} does not fit: {_keys_summary(missing, unexpected)}{chosen.choice}.")
    state = {k: v for k, v in state.items() if k in expected}
    _refuse_unlike(state, expected, f"{label}: {path} does not fit")
    model.load_state_dict(state, strict=False)  # what may be absent are counters of training steps, and tables
    notes = "; ".join(n for n in (chosen.note, fitted.note, tables.note, _narrow(state, expected)) if n)
    digest = hash_of(weight_files(path))
    return (path.name, digest, notes) if notes else (path.name, digest)


def _refuse_unlike(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of another kind or shape than the model's.

    Raises:
        InvalidRequestError: naming them.
    """
    for name, value in state.items():
        reason = _unlike(value, expected[name])
        if reason:
            raise InvalidRequestError(f"{what}: {name!r} {reason}.")
    differing = [n for n, v in state.items() if v.shape != expected[n].shape]
    if not differing:
        return
    first = differing[0]
    others = [f"{n} {tuple(state[n].shape)} for {tuple(expected[n].shape)}" for n in differing[1:4]]
    more = f"; also {', '.join(others)}{' and more' if len(differing) > 4 else ''}" if others else ""
    raise InvalidRequestError(
        f"{what}: {first!r} has the shape {tuple(state[first].shape)}, the model's is {tuple(expected[first].shape)}{more} "
        f"({len(differing)} of {len(state)} tensors). Give the constructor arguments that the checkpoint was trained with."
    )


def _narrow(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The types of weights that are kept in fewer bits than the model's."""
    types = {str(v.dtype).removeprefix("torch.") for k, v in state.items() if v.itemsize < expected[k].itemsize}
    return f"stored as {', '.join(sorted(types))}" if types else ""


def read_checkpoint(path: Path) -> Any:
    """What a ``.safetensors`` file holds, a file that ``torch.save`` wrote, or the parts of one in a folder or an index.

    Raises:
        InvalidRequestError: if the file cannot be read without executing code from it.
    """
    files = weight_files(path)
    if files != (path,):
        return {k: v for file in files for k, v in read_checkpoint(file).items()}
    if not path.is_file():
        raise InvalidRequestError(f"there is no checkpoint {str(path)!r}.")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except MemoryError:
            raise
        except Exception as error:  # also types of elements that torch has no name for
            raise InvalidRequestError(
                f"{path} cannot be read as safetensors: {error or type(error).__name__}."
            ) from error
    try:
        with torch.serialization.safe_globals(_inert()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own
        if not re.search("global|class|instance", str(error), re.IGNORECASE):
            raise InvalidRequestError(
                f"{path} cannot be read as weights ({path.stat().st_size} bytes): it is no file that torch.save wrote, or "
                "was cut short. Copy it again, or save model.state_dict(), best with safetensors.torch.save_file."
            ) from error
        raise InvalidRequestError(
            f"{path} cannot be read as weights: beside tensors it holds {_code_in(path)}, and a file that holds whole Python "
            "objects would have to be executed to be read: save model.state_dict(), best with safetensors.torch.save_file. If "
            f"it is a whole model that you trust, name it as the model: attn-deploy export {path.name} --trust."
        ) from error


def _code_in(path: Path) -> str:
    """What a pickle names that is neither torch's nor numpy's, for a message."""
    try:
        names = [n.replace(" ", ".") for n in names_in(path)]
    except InvalidRequestError:
        return "other things"
    other = [n for n in names if n.partition(".")[0] not in ("torch", "collections", "numpy")] or names
    return ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")


def _inert() -> list[Any]:
    """What training scripts put beside weights that holds data and runs nothing: numbers of numpy, options, paths."""
    functions: list[Any] = [np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]]
    kinds = {type(np.dtype(t)) for t in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")}
    return [
        *functions,
        np.dtype,
        np.ndarray,
        *kinds,
        argparse.Namespace,
        types.SimpleNamespace,
        PosixPath,
        PurePosixPath,
    ]


def _keys_summary(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected ({_some(unexpected)})")
    summary = " and ".join(parts)
    near = difflib.get_close_matches(unexpected[0], missing, n=1, cutoff=0.6) if missing and unexpected else []
    return f"{summary}; {unexpected[0]!r} looks like {near[0]!r}" if near else summary


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True, slots=True)
class TrainedHeader:
    """What ``model.safetensors`` says of itself: the model, its arguments, and what its images were."""

    model: str
    arguments: Mapping[str, int | float | str | bool | None]
    dataset: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _WeightsNote:
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _RunNote:
    weights: _WeightsNote | None = None
    model: str | None = None


def check_recorded_hash(file: Path) -> None:
    """Compare the weights of a run with the hash in the ``record.json`` beside them, if there is one.

    Raises:
        CheckpointError: if they are not those that the run wrote, or the record cannot be read.
    """
    record = file.with_name(RECORD)
    if not record.is_file():
        return
    try:
        run = read_typed(record, _RunNote, "the record of a run")
    except InvalidRequestError as error:
        raise CheckpointError(str(error)) from error
    note = run.weights
    if run.model is not None and file.name == WEIGHTS and (note is None or note.file != file.name):
        other = "no weights" if note is None else f"{note.file!r} for its weights"
        raise CheckpointError(
            f"{record} names {other}, and {file} lies beside it: nothing says that these are what was trained. Copy the "
            "whole run again, or train the model again."
        )
    if note is None or note.file != file.name:
        return
    if not file.is_file():
        raise CheckpointError(f"there is no {file}, which {record} names: it was removed. Train the model again.")
    digest = sha256_of(file)
    if digest != note.sha256:
        raise CheckpointError(
            f"{file} is not the file that was trained: its sha256 is {digest[:12]}..., {record} has "
            f"{note.sha256[:12]}.... Copy it again, or train the model again."
        )


def read_weights(path: Path) -> tuple[dict[str, Tensor], TrainedHeader]:
    """The tensors of a ``model.safetensors``, or of a run folder, and what its header says.

    Raises:
        CheckpointError: if there is none, it is damaged, it is not what the run's record names, or it does not say of
            what model it is.
    """
    file = path / WEIGHTS if path.is_dir() else path
    check_recorded_hash(file)
    if not file.exists():
        hint = " (the run is not finished: train with --resume)" if (path / RECORD).exists() else ""
        raise CheckpointError(f"there is no {file}{hint}.")
    require_regular(file)
    try:
        with safe_open(file, framework="pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
        tensors = load_file(file)
    except MemoryError:
        raise
    except Exception as error:  # also types of elements that torch has no name for
        raise CheckpointError(f"{file} is not a whole safetensors file: {error}.") from error
    if header is None:
        raise CheckpointError(
            f"{file} does not say of what model it is; expected a file that `attn-deploy train` wrote."
        )
    try:
        return tensors, typed(json.loads(header), TrainedHeader)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: its header is damaged: {error} Expected a file that `attn-deploy train` wrote."
        ) from error


def _unlike(value: Tensor, expected: Tensor) -> str:
    """Why a tensor cannot become another without a change of meaning; empty if it can."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "sparse" if value.layout != torch.strided else "quantized" if value.is_quantized else "nested"
        return f"is a {kind} tensor, and the model's is a dense one of {expected.dtype}"
    same = (
        value.is_floating_point() == expected.is_floating_point()
        and value.is_complex() == expected.is_complex()
        and (value.dtype == torch.bool) == (expected.dtype == torch.bool)
    )
    return (
        "" if same else f"is a tensor of {value.dtype} of shape {tuple(value.shape)}, the model's is {expected.dtype}"
    )


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        CheckpointError: naming the first tensors that are missing, left over or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    unlike = next(((k, r) for k in own.keys() & tensors.keys() if (r := _unlike(tensors[k], own[k]))), None)
    if unlike is not None:
        raise CheckpointError(f"{what} belongs to another model: {unlike[0]} {unlike[1]}.")
    differing = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or differing:
        parts = []
        if missing:
            parts.append(f"missing tensors: {_some(missing)}")
        if extra:
            parts.append(f"unexpected tensors: {_some(extra)}")
        if differing:
            key = min(differing)
            parts.append(f"{key} has the shape {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}")
        raise CheckpointError(f"{what} belongs to another model: {'; '.join(parts)}.")
    module.load_state_dict(dict(tensors))
