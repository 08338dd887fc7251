"""What a package is asked for."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from attn_deploy.deploy.package.triton import triton_tensorrt
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import TEMPORARY

_LONGEST = 128
_NAME = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}"  # it becomes a folder, a part of paths, and text in a configuration
PARTS = ("python", "triton", "docker")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageRequest:
    """Options of one package.

    Attributes:
        parts: of `PARTS`: clients, a model repository, Dockerfiles.
        name: of the model on a server and in messages; None for the file name of the model.
        labels: a text file with the name of a class on each line.
        max_batch: the largest batch that a server may form; None for the usual one.
        profile: ``record.json`` of a profile, or its folder: latencies for the evidence, batch sizes for the server.
        accuracy: JSON files of `attn_deploy.evaluate`, for the evidence.
        reference: the file that a file was converted from; golden outputs are then that one's.
        devices: for each an engine is built.
        target: compute capabilities of an engine, for TensorRT-RTX.
        triton: release of the server that engines are for.

    Raises:
        InvalidRequestError: if a part or a release is unknown, or a file does not exist.
    """

    parts: tuple[str, ...] = ("python",)
    name: str | None = None
    labels: Path | None = None
    max_batch: int | None = None
    profile: Path | None = None
    accuracy: tuple[Path, ...] = ()
    reference: Path | None = None
    devices: tuple[str, ...] = ()
    target: str | None = None
    triton: str | None = None

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                near = difflib.get_close_matches(part, PARTS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise InvalidRequestError(f"--for {part!r} is unknown{hint} Choose from {', '.join(PARTS)}.")
        if self.name is not None and not re.fullmatch(_NAME, self.name):
            raise InvalidRequestError(
                f"--name {self.name[:60]!r} cannot be the name of a folder on a server: letters, digits, '.', '_' and '-', and "
                "a letter or digit first."
            )
        if self.triton is not None:
            triton_tensorrt(self.triton)
        if self.max_batch is not None and not 1 <= self.max_batch < 1 << 31:  # a server's configuration has 32 bits
            raise InvalidRequestError(f"--max-batch is {self.max_batch}, and must be from 1 to {(1 << 31) - 1}.")
        for option, path in (("--labels", self.labels), ("--profile", self.profile), ("--reference", self.reference)):
            if path is not None and not path.exists():
                raise InvalidRequestError(f"{option} {str(path)!r} not found.")
        for path in self.accuracy:
            if not path.is_file():
                raise InvalidRequestError(f"--accuracy {str(path)!r} not found.")


def served_name(stem: str) -> str:
    """The name on a server of what a file or a model is called: what it may not hold becomes ``_``."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")
    return name[:_LONGEST] or "model"


def check_folder(folder: Path) -> None:
    """Refuse a folder that something lies in already.

    Raises:
        InvalidRequestError: saying what to do.
    """
    if folder.is_file():
        raise InvalidRequestError(f"{folder} is a file; name a folder for the package.")
    if folder.is_dir() and any(not p.name.startswith(TEMPORARY) for p in folder.iterdir()):
        raise InvalidRequestError(f"the folder {folder} is not empty; remove it, or choose another for the package.")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise InvalidRequestError(f"the folder {str(parent)!r} does not exist; create it, or choose another.")
