"""Loading a user's checkpoint into a model, with every key accounted for."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.files import sha256_of
from attn_deploy.resolve.insert import is_inserted

# What training scripts put around the weights, and in front of their names.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "net",
    "network",
    "params",
    "ema_state_dict",
    "weights",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
# The files of a training run.
RECORD, WEIGHTS = "record.json", "model.safetensors"
HEADER = "attn_deploy"  # key of our JSON in the header of model.safetensors


def load_weights(model: nn.Module, path: Path | str, label: str) -> tuple[str, str]:
    """Load a checkpoint into ``model`` in place; the file name and its sha256.

    Wrappers such as ``{"state_dict": ...}`` and prefixes such as ``module.`` are understood. Nothing is executed: pickles
    are read with ``weights_only=True``.

    Raises:
        InvalidRequestError: if the file cannot be read or is no checkpoint, or a key or a shape does not fit.
    """
    path = Path(path)
    state = _fitted(read_state_dict(path), set(model.state_dict()))
    expected = model.state_dict()
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    if not any(map(is_inserted, state)):  # of the network before a module was put into it, which keeps its values
        missing = [k for k in missing if not is_inserted(k)]
    unexpected = [k for k in state if k not in expected]
    if missing or unexpected:
        raise InvalidRequestError(f"{label}: {path} does not fit: {_keys_told(missing, unexpected)}.")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise InvalidRequestError(
                f"{label}: {path} does not fit: {name!r} has the shape {tuple(value.shape)}, the model's is "
                f"{tuple(expected[name].shape)}. Give the constructor arguments that the checkpoint was trained with."
            )
    model.load_state_dict(state, strict=False)  # what may be absent are counters of training steps
    return path.name, sha256_of(path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a file that ``torch.save`` wrote, without wrappers.

    Raises:
        InvalidRequestError: if the file cannot be read without executing code from it, or holds no tensors by name.
    """
    if not path.is_file():
        raise InvalidRequestError(f"there is no checkpoint {str(path)!r}.")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise InvalidRequestError(f"{path} cannot be read as safetensors: {error}.") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own
        if not re.search("global|class|instance", str(error), re.IGNORECASE):
            raise InvalidRequestError(
                f"{path} cannot be read as weights ({path.stat().st_size} bytes): it is no file that torch.save wrote, or "
                "was cut short. Copy it again, or save model.state_dict(), best with safetensors.torch.save_file."
            ) from error
        first = str(error).strip().splitlines()[0]
        raise InvalidRequestError(
            f"{path} cannot be read as weights: {first[:200]} A file that holds whole Python objects would have to be "
            "executed to be read: save model.state_dict(), best with safetensors.torch.save_file."
        ) from error
    return _unwrapped(content, path)


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
            return {str(k): v for k, v in content.items()}
        inner = next(
            (k for k in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)), None
        )
        if inner is None:
            break
        content = content[inner]
    holds = (
        f"keys {', '.join(map(repr, list(content)[:6]))}" if isinstance(content, Mapping) else type(content).__name__
    )
    raise InvalidRequestError(
        f"{path} holds no state dict ({holds}); expected tensors by name, alone or under {', '.join(WRAPPERS[:3])}."
    )


def _fitted(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Without the prefixes that all names share and the model's do not."""
    for _ in range(3):
        if set(state) & expected:
            break
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return {k: v for k, v in state.items() if k in expected or not k.endswith("num_batches_tracked")}


def _keys_told(missing: Sequence[str], unexpected: Sequence[str]) -> str:
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


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a ``model.safetensors``, or of a run folder, and what its header says.

    Raises:
        CheckpointError: if there is none, it is damaged, or it does not say of what model it is.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.exists():
        hint = " (the run is not finished: train with --resume)" if (path / RECORD).exists() else ""
        raise CheckpointError(f"there is no {file}{hint}.")
    try:
        with safe_open(file, framework="pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file: {error}.") from error
    if header is None:
        raise CheckpointError(
            f"{file} does not say of what model it is; expected a file that `attn-deploy train` wrote."
        )
    return tensors, json.loads(header)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        CheckpointError: naming the first tensors that are missing, left over or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
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
