"""The folder of a run: cells as they are made, one line each, so that nothing done is lost when the run is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.matrix.cell import Cell
from attn_deploy.matrix.options import MatrixOptions

CELLS_NAME, OPTIONS_NAME = "cells.jsonl", "options.json"


class MatrixFolder:
    """A folder with the cells of a run, appended to as they are made.

    Args:
        path: the folder; made if missing.
        resume: whether it may hold cells already.

    Raises:
        InvalidRequestError: if it holds a run and ``resume`` is False, or cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._cells = path / CELLS_NAME
        if resume and not self._cells.is_file():
            raise InvalidRequestError(f"{str(path)!r} holds no matrix run to resume; start one with --output.")
        if not resume and self._cells.is_file():
            raise InvalidRequestError(
                f"{str(path)!r} already holds a matrix run; continue it with --resume {path}, or choose another --output."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._cells.touch()
            self._end_last_line()
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be written: {error.strerror or error}.") from error

    def _end_last_line(self) -> None:
        """A run that was killed while it wrote leaves half a line, which must not swallow the next one."""
        with self._cells.open("rb+") as file:
            if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")

    def write_options(self, options: MatrixOptions, shard: tuple[int, int]) -> None:
        """Note what the run was asked for, and which part of it this folder is."""
        data = {**options.to_dict(), "shard": list(shard)}
        write_atomic(self.path / OPTIONS_NAME, json.dumps(data, indent=1) + "\n")

    def append(self, cell: Cell) -> None:
        """Keep a cell."""
        with self._cells.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell.to_dict(), separators=(",", ":")) + "\n")

    def known(self) -> dict[str, Cell]:
        """The cells that are there, by key; those whose process died or was ended are to be tried again."""
        return {c.key: c for c in self._read() if c.is_final}

    def _read(self) -> Iterator[Cell]:
        for line in self._cells.read_text(encoding="utf-8").splitlines():
            try:
                yield Cell.from_dict(json.loads(line))
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the last line of a run that was killed while it wrote


def stored_request(path: Path) -> tuple[MatrixOptions, tuple[int, int]]:
    """What the run in a folder was asked for, and which shard of how many it is.

    Raises:
        InvalidRequestError: if there is no run in it, or its options cannot be read.
    """
    file = path / OPTIONS_NAME
    if not file.is_file():
        raise InvalidRequestError(f"{str(path)!r} holds no matrix run to resume; start one with --output.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        number, shards = data.pop("shard", (1, 1))
        return MatrixOptions.from_dict(data), (int(number), int(shards))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f"{file} holds no options that this version reads ({error}); start the run anew with another --output."
        ) from error
