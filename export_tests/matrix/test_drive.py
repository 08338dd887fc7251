"""What drives the workers of a matrix, where its own threads fail."""

from __future__ import annotations

import pytest

from attn_deploy.errors import WorkerCrashError
from attn_deploy.matrix import drive as module
from attn_deploy.matrix.cell import Cell, CellId, Check
from attn_deploy.matrix.drive import drive
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.task import Task


class Worker:
    """A worker whose cells pass."""

    def run(self, task, *, careful):
        return Cell(id=task.cell, checks=(Check("export", "passed"),)).to_dict()

    def close(self):
        pass


def tasks(count: int) -> list[list[Task]]:
    return [[Task(CellId("se", "dynamo", 13 + n), MatrixOptions(), f"{n}", 60.0)] for n in range(count)]


def test_each_cell_comes_once():
    cells = []
    assert drive(tasks(5), Worker, jobs=2, on_cell=cells.append)
    assert sorted(c.id.opset for c in cells) == [13, 14, 15, 16, 17]


def test_lanes_that_die_without_a_word_are_no_hang(monkeypatch):
    """As they do where no memory is left to say so."""
    monkeypatch.setattr(module, "_lane", lambda *_: None)
    monkeypatch.setattr(module, "_LOOK", 0.05)
    with pytest.raises(WorkerCrashError, match="out of memory"):
        drive(tasks(3), Worker, jobs=2, on_cell=lambda cell: None)
