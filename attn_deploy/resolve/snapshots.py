"""Folders with a model as its publishers keep it: ``config.json`` beside its weights, in one file or in several.

Those of transformers are loaded by transformers itself, from the folder alone: its names of weights have changed over the
years, and it knows the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import require_regular, sha256_of
from attn_deploy.resolve.names import parse_name

CONFIGURATION = "config.json"
INDEX = ".index.json"
# Names of weights in such folders, the likeliest first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def with_configuration(
    name: str, arguments: Mapping[str, Any] | None, weights: Path | str | None
) -> Mapping[str, Any] | None:
    """The constructor arguments; of a transformers model, with the configuration of the snapshot that is to be loaded."""
    if weights is None or not Path(weights, CONFIGURATION).is_file():
        return arguments
    parsed = parse_name(name)
    if parsed.package != "transformers" or "config" in {**parsed.arguments, **(arguments or {})}:
        return arguments
    return {**(arguments or {}), "config": str(weights)}


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the tensors of a folder or of an index; the path itself if it is a file of tensors.

    Raises:
        InvalidRequestError: if there are none, the index cannot be read, or it names files that are not there.
    """
    if path.is_dir():
        inside = next((path / n for n in WEIGHT_FILES if (path / n).is_file()), None)
        if inside is None:
            raise InvalidRequestError(f"{path} holds none of {', '.join(WEIGHT_FILES)}; name the file of the weights.")
        return weight_files(inside)
    if not path.name.endswith(INDEX):
        return (path,)
    require_regular(path)
    try:
        table = json.loads(path.read_text())["weight_map"]
        names = dict.fromkeys(str(v) for v in table.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(
            f"{path} is no index of weights, with the file of each tensor under 'weight_map'."
        ) from error
    outside = [n for n in names if Path(n).name != n or n.endswith(INDEX)]
    if outside:
        raise InvalidRequestError(f"{path} names {outside[0]!r}, which is no file of tensors beside it.")
    absent = [n for n in names if not path.with_name(n).is_file()]
    if absent or not names:
        raise InvalidRequestError(
            f"{path} names {len(names)} files and {len(absent)} of them are missing ({', '.join(absent[:3])}): copy them too."
        )
    return tuple(path.with_name(n) for n in names)


def published_state(model: nn.Module, folder: Path, label: str) -> tuple[dict[str, Tensor], str] | None:
    """The tensors of a snapshot of transformers' under the names of ``model``, and what of them was left out.

    None if the folder has no configuration, or the model is none of transformers'.

    Raises:
        InvalidRequestError: if tensors are missing or of another shape, or transformers cannot read the folder.
    """
    cls: Any = next((c for c in type(model).__mro__ if c.__module__.partition(".")[0] == "transformers"), None)
    if cls is None or not hasattr(cls, "from_pretrained") or not Path(folder, CONFIGURATION).is_file():
        return None
    try:
        other, said = cls.from_pretrained(
            folder, config=model.config, local_files_only=True, output_loading_info=True, torch_dtype="float32"
        )
    except Exception as error:  # a library's own errors of many kinds
        reason = " ".join(str(error).split())[:300]
        raise InvalidRequestError(
            f"{label}: transformers cannot load {folder}: {type(error).__name__}: {reason}"
        ) from error
    missing, differing = sorted(said.get("missing_keys", ())), sorted(map(str, said.get("mismatched_keys", ())))
    if missing or differing:
        what = f"{len(missing)} tensors are missing" if missing else f"{len(differing)} have another shape"
        some = ", ".join((missing or differing)[:3])
        raise InvalidRequestError(
            f"{label}: {folder} does not fit: {what} ({some}). Name the class that was saved there; its config.json has it "
            "under 'architectures'."
        )
    extra = sorted(said.get("unexpected_keys", ()))
    note = f"left out: {len(extra)} others ({', '.join(extra[:3])})" if extra else ""
    return dict(other.state_dict()), note


def hash_of(files: tuple[Path, ...]) -> str:
    """The sha256 of one file; of several, their hashes joined in order."""
    if len(files) == 1:
        return sha256_of(files[0])
    import hashlib

    return hashlib.sha256("".join(sha256_of(f) for f in files).encode()).hexdigest()
