"""What a matrix leaves behind: every cell, and what it was made with. Reports are functions of this."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import Environment
from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellData, sorted_cells
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.reading import read_json, typed

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRecord:
    """A finished or interrupted matrix.

    Attributes:
        cells: sorted by their coordinates.
        options: what was asked.
        shard: which part of how many.
        environment: the machine and the software.
        argv: the command.
        started: UTC, ISO 8601; ``seconds`` wall clock of this run.
        jobs: how many workers; ``executor`` of which kind.
        reused: how many cells were taken over from an earlier run.
        interrupted: whether cells are missing because the run was stopped.
        lacks: what a merged record would need to be whole, in words.
        attn_deploy: version.
    """

    cells: tuple[Cell, ...]
    options: MatrixOptions
    environment: Environment
    shard: tuple[int, int] = (1, 1)
    argv: tuple[str, ...] = ()
    started: str = ""
    seconds: float = 0.0
    jobs: int = 1
    executor: str = "processes"
    reused: int = 0
    interrupted: bool = False
    lacks: tuple[str, ...] = ()
    attn_deploy: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def counts(self) -> dict[str, int]:
        """Cells by status."""
        counter = collections.Counter(c.status for c in self.cells)
        return {status: counter[status] for status in (PASSED, FAILED, SKIPPED)}

    @property
    def failures(self) -> list[Cell]:
        """The red cells."""
        return [c for c in self.cells if c.status == FAILED]

    @property
    def skipped(self) -> list[Cell]:
        """The grey cells."""
        return [c for c in self.cells if c.status == SKIPPED]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "schema_version": self.schema_version,
            "attn_deploy": self.attn_deploy,
            "options": self.options.to_dict(),
            "shard": list(self.shard),
            "environment": self.environment.to_dict(),
            "argv": list(self.argv),
            "started": self.started,
            "seconds": self.seconds,
            "jobs": self.jobs,
            "executor": self.executor,
            "reused": self.reused,
            "interrupted": self.interrupted,
            "lacks": list(self.lacks),
            "counts": self.counts,
            "cells": [c.to_dict() for c in self.cells],
        }

    def to_json(self) -> str:
        """The record as text, a line for each cell, so that two records can be compared line by line."""
        data = self.to_dict()
        cells = ",\n".join(json.dumps(c, separators=(",", ":")) for c in data.pop("cells"))
        head = json.dumps(data, indent=1)
        return f'{head[:-2]},\n "cells": [\n{cells}\n ]\n}}\n'

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        write_atomic(path, self.to_json())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MatrixRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if it is of another schema.
        """
        version = data.get("schema_version") if isinstance(data, Mapping) else None
        if version != SCHEMA_VERSION:
            raise InvalidRequestError(
                f"the matrix record has the schema {version}, and this version reads {SCHEMA_VERSION}."
            )
        record = typed(data, _RecordData, signed=("found", "temperature"))
        cells = sorted_cells(c.cell(f"cells[{index}]") for index, c in enumerate(record.cells))
        return cls(
            cells=tuple(cells),
            options=record.options,
            environment=record.environment,
            shard=record.shard,
            argv=record.argv,
            started=record.started,
            seconds=record.seconds,
            jobs=record.jobs,
            executor=record.executor,
            reused=record.reused,
            interrupted=record.interrupted,
            lacks=record.lacks,
            attn_deploy=record.attn_deploy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordData:
    """A record as it stands in a file."""

    cells: tuple[CellData, ...]
    options: MatrixOptions
    environment: Environment
    shard: tuple[int, int]
    argv: tuple[str, ...]
    started: str
    seconds: float
    jobs: int
    executor: str
    reused: int
    interrupted: bool
    attn_deploy: str
    lacks: tuple[str, ...] = ()


def read_record(path: Path | str) -> MatrixRecord:
    """The record in a file, or in a folder that a matrix was written to.

    Raises:
        InvalidRequestError: if there is none, or it cannot be read.
    """
    path = Path(path)
    file = path / RECORD_NAME if path.is_dir() else path
    if not file.is_file():
        raise InvalidRequestError(f"there is no matrix record at {str(file)!r}.")
    try:
        return MatrixRecord.from_dict(read_json(file))
    except InvalidRequestError as error:
        text = str(error)
        raise InvalidRequestError(text if str(file) in text else f"{file} is not a matrix record: {text}") from error
