"""On what a step's result depends beside its command line: the source of the model, versions, and who measures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from attn_deploy.errors import AttnDeployError
from attn_deploy.files import sha256_of
from attn_deploy.machine.environment import installed_versions, processors
from attn_deploy.matrix.keys import model_hash, source_hash
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.package_names import MODULES

# What runs, builds or times a file: with another version the answer may be another one.
_RUNTIMES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
_RUNNING = ("quantize", "build", "profile", "evaluate", "package")


def content_hash(path: Path) -> str:
    """A hash over the bytes of a file, or of all files of a folder and their names; empty where there is nothing."""
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(os.fsencode(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n"))
    return digest.hexdigest()


def hash_of_model(model: str, folder: Path) -> str:
    """What a model is made of.

    Args:
        model: as in the pipeline's file.
        folder: that its paths are relative to.

    Returns:
        Of a file or a trained run the hash of its bytes, of a user's class that of its file and of those that it imports, of a
        package's model the package's version, of a name of the registry that of its source.
    """
    path = folder / model
    if path.exists():
        return content_hash(path)
    try:
        parsed = parse_name(model)
        if parsed.file is not None:
            return source_hash(folder / parsed.file)
        if (weights := parsed.pickled or parsed.checkpoint) is not None:
            return content_hash(folder / weights)
        if parsed.package is not None:
            return str(installed_versions((MODULES[parsed.package],)))
        return model_hash(model)
    except AttnDeployError:  # the step that takes the name says what is wrong with it
        return ""


def surroundings(command: str) -> Any:
    """The versions and, where time is measured, the machine that the result of a command holds for."""
    if command not in _RUNNING:
        return None
    versions = installed_versions(_RUNTIMES)
    return [versions, processors()] if command == "profile" else versions
