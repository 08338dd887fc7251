"""A run's folder: one state that is whole at every moment, the record, and at the end the weights.

    record.json              what runs, how far it is, which state belongs to it
    state-0007.safetensors   weights, averaged weights and momentum after epoch 7
    model.safetensors        the averaged weights of the finished run; its header says of what model

A new state is written beside the old one; only then does the record name it, and only then does the old one go. A run
that is killed at any moment leaves a record with a state that belongs to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from attn_deploy.errors import CheckpointError, InvalidRequestError, reason_of
from attn_deploy.files import alone_in, atomic_path, make_folder, sha256_of, sweep, write_atomic
from attn_deploy.reading import read_json
from attn_deploy.resolve.checkpoints import HEADER, RECORD, WEIGHTS, check_recorded_hash

SCHEMA_VERSION = 1


class FileNote(TypedDict):
    """A file of the run's folder, and its hash."""

    file: str
    sha256: str


class TrainingFolder:
    """The files of one training run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def begun(self) -> bool:
        """Whether a run has left its record here."""
        return (self.path / RECORD).exists()

    def make(self) -> None:
        """Make the folder where it is not there.

        Raises:
            InvalidRequestError: if it cannot be made.
        """
        make_folder(self.path)

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        sweep(self.path)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder while this one trains in it.

        Raises:
            InvalidRequestError: from the block's start, if another process is at work in it.
        """
        return alone_in(self.path, "training")

    def read_record(self) -> dict[str, Any]:
        """The record as data.

        Raises:
            CheckpointError: if it cannot be read.
        """
        path = self.path / RECORD
        try:
            data = read_json(path)
        except InvalidRequestError as error:
            raise CheckpointError(str(error)) from error
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            version = data.get("schema_version") if isinstance(data, dict) else None
            raise CheckpointError(f"{path} has schema version {version}; this version reads {SCHEMA_VERSION}.")
        return data

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace the record."""
        write_atomic(self.path / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")

    def save(self, state: Mapping[str, Tensor], record: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """Keep the state after so many epochs, and the record that goes with it; returns the record as written."""
        name = f"state-{epoch:04d}.safetensors"
        _write_tensors(self.path / name, state)
        written = {**record, "state": {"file": name, "sha256": sha256_of(self.path / name), "epoch": epoch}}
        self.write_record(written)
        for old in self.path.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)
        return written

    def load(self, record: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state that the record names.

        Raises:
            CheckpointError: if the file is missing or is not the one that was written.
        """
        named = record["state"]
        path = self.path / named["file"]
        if not path.exists():
            raise CheckpointError(f"{path} is missing; {self.path / RECORD} names it. Train again without --resume.")
        digest = sha256_of(path)
        if digest != named["sha256"]:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is {digest[:12]}..., the record has {named['sha256'][:12]}.... Train again "
                "without --resume."
            )
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {reason_of(error)}. Train again without --resume."
            ) from error

    def finish(self, weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> FileNote:
        """Write the weights of the finished run; returns their file name and hash."""
        path = self.path / WEIGHTS
        _write_tensors(path, weights, {HEADER: json.dumps(header)})
        return {"file": WEIGHTS, "sha256": sha256_of(path)}

    def check_weights(self) -> None:
        """Compare the weights of the finished run with the record.

        Raises:
            CheckpointError: if they are gone, or are not those that the run wrote.
        """
        check_recorded_hash(self.path / WEIGHTS)

    def drop_state(self) -> None:
        """Remove the states, which nobody needs once the run is finished."""
        for old in self.path.glob("state-*.safetensors"):
            old.unlink(missing_ok=True)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:  # a disk that is full among others
            raise InvalidRequestError(f"{path} could not be written: {error}.") from error
