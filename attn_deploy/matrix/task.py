"""One cell to make, and what makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from attn_deploy.matrix.cell import CellId
from attn_deploy.matrix.options import MatrixOptions


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to make; see `attn_deploy.matrix.making.make_cell_data`."""

    cell: CellId
    options: MatrixOptions
    key: str
    timeout: float


class Worker(Protocol):
    """Makes one cell after another, and survives what a cell does to its process."""

    def run(self, task: Task, *, careful: bool) -> dict[str, Any]:
        """The cell as data.

        Raises:
            WorkerTimeoutError: the cell took too long, and its process was ended.
            WorkerCrashError: the process died under the cell. The next call works again.
        """
        ...

    def close(self) -> None:
        """End the process, whatever it does."""
        ...
