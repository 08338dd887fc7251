"""The folder of a run: cells as they are made, one line each, so that nothing done is lost when the run is stopped."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import alone_in, make_folder, sweep, to_disk, write_atomic
from attn_deploy.matrix.cell import Cell
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.reading import read_json, typed

CELLS_NAME, OPTIONS_NAME = "cells.jsonl", "options.json"


class MatrixFolder:
    """A folder with the cells of a run, appended to as they are made.

    It holds a run as soon as it holds the options of one, which are the first file that is written.

    Args:
        path: the folder; made if missing.
        resume: whether it may hold a run already.

    Raises:
        InvalidRequestError: if it holds a run and ``resume`` is False, or none and it is True, or cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._cells = path / CELLS_NAME
        begun = (path / OPTIONS_NAME).is_file()
        if resume and not begun:
            raise _nothing_to_resume(path)
        if not resume and (begun or (self._cells.is_file() and self._cells.stat().st_size)):
            raise InvalidRequestError(
                f"{str(path)!r} already holds a matrix run; "
                + (f"continue it with -o {path} --resume, or choose" if begun else "its options are missing, so choose")
                + " another --output."
            )
        make_folder(path)
        sweep(path)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, *, resume: bool) -> Iterator[MatrixFolder]:
        """The folder, for this process alone within the block; arguments as of the class.

        Raises:
            InvalidRequestError: as the class, and if another process is at work in it.
        """
        cls(path, resume=resume)
        with alone_in(path, "making a matrix"):
            yield cls(path, resume=resume)  # another one may have begun and ended meanwhile

    def write_options(self, options: MatrixOptions, shard: tuple[int, int]) -> None:
        """Note what the run was asked for, and which part of it this folder is."""
        data = {**options.to_dict(), "shard": list(shard)}
        write_atomic(self.path / OPTIONS_NAME, json.dumps(data, indent=1) + "\n")

    def append(self, cell: Cell) -> None:
        """Keep a cell.

        Raises:
            InvalidRequestError: if it cannot be written.
        """
        line = json.dumps(cell.to_dict(), separators=(",", ":")) + "\n"
        begun = self._cells.exists()
        try:
            with self._cells.open("ab+") as file:
                if file.seek(0, os.SEEK_END):  # a run that was killed while it wrote leaves half a line
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if not begun:
                to_disk(self.path)
        except OSError as error:
            raise InvalidRequestError(f"{self._cells} cannot be written: {error.strerror or error}.") from error

    def known(self) -> dict[str, Cell]:
        """The cells that are there, by key; those whose process died or was stopped are to be tried again."""
        return {c.key: c for c in self._read() if c.is_final}

    def _read(self) -> Iterator[Cell]:
        if not self._cells.is_file():
            return
        for line in self._cells.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # half a line, or one that was altered: made again
                yield Cell.from_dict(json.loads(line))


def stored_request(path: Path) -> tuple[MatrixOptions, tuple[int, int]]:
    """What the run in a folder was asked for, and which shard of how many it is.

    Raises:
        InvalidRequestError: if there is no run in it, or its options cannot be read.
    """
    file = path / OPTIONS_NAME
    if not file.is_file():
        raise _nothing_to_resume(path)
    try:
        data = read_json(file)
        unknown = sorted(
            set(data if isinstance(data, dict) else ()) - {"shard", *(f.name for f in fields(MatrixOptions))}
        )
        if unknown:  # an option that this version does not know would make other cells
            raise InvalidRequestError(f"the option {unknown[0]!r} is unknown.")
        return MatrixOptions.from_dict(data), typed(data, _Shard).shard
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{file} holds no options that this version reads: {error} Start the run anew with another --output."
        ) from error


@dataclass(frozen=True, slots=True)
class _Shard:
    shard: tuple[int, int] = (1, 1)


def _nothing_to_resume(path: Path) -> InvalidRequestError:
    return InvalidRequestError(f"{str(path)!r} holds no matrix run to resume; start one with --output {path}.")
