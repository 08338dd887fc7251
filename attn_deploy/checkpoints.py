"""Loading a user's checkpoint into a model, with every key accounted for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import sha256_of

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
        found = torch.load(path, map_location="cpu", weights_only=True)
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
    return _unwrapped(found, path)


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values()):
            return {str(k): v for k, v in found.items()}
        inner = next((k for k in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None)
        if inner is None:
            break
        found = found[inner]
    holds = f"keys {', '.join(map(repr, list(found)[:6]))}" if isinstance(found, Mapping) else type(found).__name__
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
        parts.append(f"{len(missing)} of the model's tensors are missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} are not the model's ({_some(unexpected)})")
    told = " and ".join(parts)
    near = difflib.get_close_matches(unexpected[0], missing, n=1, cutoff=0.6) if missing and unexpected else []
    return f"{told}; {unexpected[0]!r} looks like {near[0]!r}" if near else told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
