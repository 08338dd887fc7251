"""What changed between two records.

A cell or a check that is no longer made is a regression too: it would hide one. A run that was asked for a part of what
the older record has is compared as a ``subset``: the cells that both have, and the checks that the newer one asks for.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.plan import expand_models
from attn_deploy.matrix.record import MatrixRecord


@dataclass(frozen=True, slots=True)
class CellChange:
    """A check of a cell whose status is another than before.

    Attributes:
        id: the cell.
        check: which check.
        before, after: its status; ``missing`` where there is no such cell, or the check is not reached any more.
        reason: why, as the newer record says; for a fixed cell what the older one said.
    """

    id: CellId
    check: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class MatrixDiff:
    """Two records compared, cell by cell.

    Attributes:
        regressions: checks that passed and do not any more, red cells that the older record does not have, and green or
            red cells that the newer one does not have though it should.
        fixed: cells that were red or grey and pass.
        added, removed: cells that only one of the records has.
        left_out: names of checks that the newer run does not ask for, with the number of cells that had passed them.
        subset: whether cells and checks that were not asked for are left out.
    """

    regressions: tuple[CellChange, ...]
    fixed: tuple[CellChange, ...]
    added: tuple[CellId, ...]
    removed: tuple[CellId, ...]
    left_out: tuple[tuple[str, int], ...] = ()
    subset: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def diff_records(old: MatrixRecord, new: MatrixRecord, *, subset: bool = False) -> MatrixDiff:
    """Compare two records cell by cell.

    Args:
        old: the earlier one.
        new: the later one.
        subset: whether the later run was meant to make a part of the earlier: cells and checks that its options do not
            ask for are then left out. What they ask for and is gone stays a regression.
    """
    before, after = {c.id: c for c in old.cells}, {c.id: c for c in new.cells}
    both, added = sorted(before.keys() & after.keys()), sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    left_out: collections.Counter[str] = collections.Counter()
    regressions = []
    for i in both:
        unasked = _unasked(before[i], new.options) if subset else []
        left_out.update(unasked)
        change = _worse(before[i], after[i], unasked)
        regressions += [change] if change is not None else []
    regressions += [
        CellChange(i, after[i].failed_check, "missing", FAILED, after[i].reason)
        for i in added
        if after[i].status == FAILED
    ]
    wanted = _asked(removed, old, new) if subset else removed
    regressions += [
        CellChange(
            i, before[i].failed_check or "export", before[i].status, "missing", "the newer record has no such cell."
        )
        for i in wanted
        if before[i].status != SKIPPED
    ]
    fixed = [
        CellChange(i, before[i].failed_check or "export", before[i].status, PASSED, before[i].reason)
        for i in both
        if before[i].status != PASSED and after[i].status == PASSED
    ]
    return MatrixDiff(
        tuple(regressions), tuple(fixed), tuple(added), tuple(removed), tuple(sorted(left_out.items())), subset
    )


def _unasked(cell: Cell, options: MatrixOptions) -> list[str]:
    """The checks that a cell passed and that these options do not make; all but engines are made of every cell."""
    passed = any(c.name == "engine" and c.status == PASSED for c in cell.checks)
    return ["engine"] if passed and not options.builds_engine(cell.id.opset) else []


def _asked(cells: Sequence[CellId], old: MatrixRecord, new: MatrixRecord) -> list[CellId]:
    """Those cells that the newer run should have made; of a shard only the other cells of its models are known."""
    axes = new.options
    if new.shard[1] > 1:
        models = {c.id.model for c in new.cells}
    elif axes.models == old.options.models:
        models = {c.model for c in cells} | {c.id.model for c in new.cells}  # a model that left the registry, too
    else:
        models = set(expand_models(axes.models))
    return [
        c
        for c in cells
        if c.model in models
        and c.opset in axes.opsets
        and c.exporter in axes.exporters
        and c.dynamic in axes.dynamic
        and c.precision in axes.precisions
    ]


def _worse(old: Cell, new: Cell, unasked: Collection[str]) -> CellChange | None:
    """The first check of a cell that passed and does not any more."""
    for check in old.checks:
        if check.status != PASSED or (check.name in unasked and new.status == PASSED):
            continue
        now = new.check(check.name)
        if now is None or now.status != PASSED:
            status = "missing" if now is None else now.status
            reason = new.reason or (now.detail if now is not None else "the check was not made")
            failed = new.failed_check
            if now is None and failed:
                return CellChange(new.id, failed, PASSED, new.status, reason)
            return CellChange(new.id, check.name, PASSED, status, reason)
    return None


def left_out_text(comparison: MatrixDiff) -> str:
    """Which checks were not compared, in one line."""
    parts = [f"{name} in {count} cell{'' if count == 1 else 's'}" for name, count in comparison.left_out]
    return f"Not compared, because the newer run does not ask for it: {', '.join(parts)}."
