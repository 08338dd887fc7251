"""What a profile leaves behind: every sample, every setting, and why a row has no number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attn_deploy.bench.latency import ColdStart as ColdStart
from attn_deploy.bench.latency import LatencyResult as LatencyResult
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.row import ProfileRow as ProfileRow
from attn_deploy.bench.row import Status as Status
from attn_deploy.bench.row import summary as summary
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.machine.devices import DeviceProfile
from attn_deploy.machine.environment import Environment
from attn_deploy.reading import field_error, read_json, typed

SCHEMA_VERSION = 2
_READABLE = (1, 2)  # what version 2 adds has defaults
_SIGNED = ("temperature", "settings")  # a board may be colder than zero


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """One profile of one model.

    Attributes:
        name: of the model.
        environment: at the start; ``load_after`` is the load average at the end.
        options: settings, with the threads that were used.
        rows: in order of size, batch, precision, then runtime as asked.
        baseline: the runtime that speed-ups refer to, None where it was not timed.
        onnx: of each ONNX file that was timed: its path if the user gave it, hash, opset, axes, and how it was made.
        argv: the command line.
        created: UTC, ISO 8601.
        device: the accelerator type that a fleet's plan was run on; empty for this machine.
        unfinished: how many shapes of the plan are still to be made, after Ctrl-C.
        light: the device profile whose speed of light the rows are put against; None for the one that fits the
            environment.
    """

    name: str
    environment: Environment
    options: BenchOptions
    rows: tuple[ProfileRow, ...]
    baseline: str | None
    onnx: tuple[Mapping[str, Any], ...] = ()
    load_after: float | None = None
    argv: tuple[str, ...] = ()
    created: str = ""
    schema_version: int = SCHEMA_VERSION
    device: str = ""
    unfinished: int = 0
    light: DeviceProfile | None = None

    @property
    def passed(self) -> bool:
        """Whether every row that was asked for has a number, and each runtime its accuracy where that was asked for."""
        if not self.rows or self.unfinished or any(r.status != "ok" for r in self.rows):
            return False
        tested = {(r.runtime, r.precision) for r in self.rows if r.accuracy is not None}
        return all((r.runtime, r.precision) in tested for r in self.rows if r.accuracy_missing)

    def row(
        self,
        runtime: str,
        batch: int | None = None,
        *,
        precision: str | None = None,
        size: tuple[int, int] | None = None,
        cuda_graph: bool | None = None,
    ) -> ProfileRow:
        """The row of a runtime, at one batch size, precision and size or the first.

        Raises:
            InvalidRequestError: if there is none.
        """
        wanted = {"batch": batch, "precision": precision, "size": size, "cuda_graph": cuda_graph}
        for row in self.rows:
            if row.runtime == runtime and all(v in (None, getattr(row, n)) for n, v in wanted.items()):
                return row
        request = ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in wanted.items() if v is not None)
        keys = ", ".join(r.key for r in self.rows)
        raise InvalidRequestError(
            f"the record has no row {runtime!r}{f' at {request}' if request else ''}; it has {keys or 'none'}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; rows carry a ``summary`` of their samples for readers without this package."""
        data = asdict(self)
        for row, entry in zip(self.rows, data["rows"], strict=True):
            entry["summary"] = summary(row, self.options)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfileRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if the data are of another schema version, or not a profile; the message names the field
                that is missing, of another type, not finite, or beyond what it can be.
        """
        version = data.get("schema_version")
        if version not in _READABLE:
            raise InvalidRequestError(
                f"the profile record has schema version {version}, this version of attn-deploy reads up to {SCHEMA_VERSION}; "
                "measure again, or read it with the version that wrote it."
            )
        record = typed(data, cls, signed=_SIGNED)
        for index, row in enumerate(record.rows):
            row.check(f"rows[{index}]")
        if record.light is not None:
            record.light.check("light")
        for index, file in enumerate(record.onnx):
            _check_file(file, f"onnx[{index}]")
        return replace(record, schema_version=SCHEMA_VERSION)

    def to_json(self) -> str:
        """The record as JSON text."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        # A line for each of thousands of samples helps nobody: lists of numbers stand on one line.
        return re.sub(r"\[[\s\d.,eE+-]+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"

    def write(self, path: Path | str) -> None:
        """Write the record as JSON, whole or not at all.

        Raises:
            InvalidRequestError: if the path cannot be written.
        """
        write_atomic(Path(path), self.to_json())

    @classmethod
    def read(cls, path: Path | str) -> ProfileRecord:
        """Read a record that `write` wrote.

        Raises:
            InvalidRequestError: if there is no such file, or it is not a profile record; the message names the file.
        """
        data = read_json(Path(path))
        if not isinstance(data, dict):
            raise InvalidRequestError(f"{path} is not a profile record: it holds a {type(data).__name__}.")
        try:
            return cls.from_dict(data)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{path} cannot be read as a profile record: {error}") from error


@dataclass(frozen=True, slots=True)
class _TimedFile:
    """What reports say of a file that was timed; an engine has a library, an ONNX file an opset."""

    sha256: str
    made: str
    nodes: int
    fused: tuple[str, ...]
    library: str = ""
    opset: int | None = None


def _check_file(data: Mapping[str, Any], where: str) -> None:
    try:
        file = typed(data, _TimedFile)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}.{error}") from error
    if not file.library and file.opset is None:
        raise field_error(f"{where}.opset", None, "that of the file")
