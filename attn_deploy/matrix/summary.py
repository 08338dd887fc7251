"""What the cells of a record say together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attn_deploy.matrix.cell import FAILED, PASSED, Cell
from attn_deploy.matrix.record import MatrixRecord


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Cells of one model that share a status, a check and a reason."""

    model: str
    exporters: tuple[str, ...]
    opsets: tuple[int, ...]
    dynamic: tuple[str, ...]
    precisions: tuple[str, ...]
    check: str
    reason: str
    rule: str | None
    cells: int

    @property
    def where(self) -> str:
        """The coordinates in words: ``dynamo, opset 13-17``."""
        words = [", ".join(self.exporters), f"opset {ranges(self.opsets)}"]
        words += [f"dynamic {', '.join(self.dynamic)}"] if self.dynamic != ("all",) else []
        words += [", ".join(self.precisions)] if self.precisions != ("fp32",) else []
        return "; ".join(words)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many cells of some kind passed, failed and were skipped; seconds is their sum."""

    passed: int
    failed: int
    skipped: int
    seconds: float

    @property
    def total(self) -> int:
        """All of them."""
        return self.passed + self.failed + self.skipped


def tally(cells: Iterable[Cell]) -> Tally:
    """Count cells by status."""
    cells = list(cells)
    statuses = [c.status for c in cells]
    passed, failed = statuses.count(PASSED), statuses.count(FAILED)
    return Tally(passed, failed, len(cells) - passed - failed, round(sum(c.seconds for c in cells), 1))


def cell_groups(cells: Iterable[Cell]) -> list[CellGroup]:
    """Red or grey cells, those of one model with one reason together."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.id.model, cell.failed_check, _without_numbers(cell)), []).append(cell)
    return [
        CellGroup(
            model=model,
            exporters=tuple(sorted({c.id.exporter for c in group})),
            opsets=tuple(sorted({c.id.opset for c in group})),
            dynamic=tuple(sorted({c.id.dynamic for c in group})),
            precisions=tuple(sorted({c.id.precision for c in group})),
            check=check,
            reason=group[0].reason,
            rule=group[0].rule,
            cells=len(group),
        )
        for (model, check, _), group in groups.items()
    ]


def unmade_checks(record: MatrixRecord) -> dict[tuple[str, str], int]:
    """Checks of green cells that could not be made, by (check, reason): how many."""
    counts: dict[tuple[str, str], int] = {}
    for cell in record.cells:
        if cell.status == PASSED:
            for check in cell.checks:
                if check.status != PASSED:
                    counts[check.name, check.detail] = counts.get((check.name, check.detail), 0) + 1
    return counts


def opsets_of(record: MatrixRecord) -> list[int]:
    """The opsets of a record's cells."""
    return sorted({c.id.opset for c in record.cells})


def exporters_of(record: MatrixRecord) -> list[str]:
    """The exporters of a record's cells."""
    return sorted({c.id.exporter for c in record.cells})


def models_of(record: MatrixRecord) -> list[str]:
    """The models of a record's cells."""
    return sorted({c.id.model for c in record.cells})


def ranges(numbers: Sequence[int]) -> str:
    """``13-17, 20`` for 13, 14, 15, 16, 17, 20."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][-1] == n - 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _without_numbers(cell: Cell) -> str:
    """The reason with its numbers left out: errors and opsets differ from cell to cell where the cause is one."""
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", cell.reason)
