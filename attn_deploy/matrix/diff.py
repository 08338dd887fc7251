"""What changed between two records. A check that is no longer made is a regression too: it would hide one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.matrix.cell import FAILED, PASSED, Cell, CellId
from attn_deploy.matrix.record import MatrixRecord


@dataclass(frozen=True, slots=True)
class Change:
    """A check of a cell whose status is another than before.

    Attributes:
        id: the cell.
        check: which check.
        before, after: its status; ``missing`` where there was no such cell before, or the check is not reached any more.
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
        regressions: checks that passed and do not any more, and red cells that the older record does not have.
        fixed: cells that were red or grey and pass.
        added, removed: cells that only one of the records has.
    """

    regressions: tuple[Change, ...]
    fixed: tuple[Change, ...]
    added: tuple[CellId, ...]
    removed: tuple[CellId, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def diff_records(old: MatrixRecord, new: MatrixRecord) -> MatrixDiff:
    """Compare the cells that both records have, and list those that one lacks."""
    before, after = {c.id: c for c in old.cells}, {c.id: c for c in new.cells}
    both = sorted(before.keys() & after.keys())
    regressions = [change for i in both if (change := _worse(before[i], after[i])) is not None]
    added = sorted(after.keys() - before.keys())
    regressions += [
        Change(i, after[i].failed_check, "missing", FAILED, after[i].reason) for i in added if after[i].status == FAILED
    ]
    fixed = [
        Change(i, before[i].failed_check or "export", before[i].status, PASSED, before[i].reason)
        for i in both
        if before[i].status != PASSED and after[i].status == PASSED
    ]
    return MatrixDiff(
        tuple(regressions),
        tuple(fixed),
        tuple(added),
        tuple(sorted(before.keys() - after.keys())),
    )


def _worse(old: Cell, new: Cell) -> Change | None:
    """The first check of a cell that passed and does not any more."""
    for check in old.checks:
        if check.status != PASSED:
            continue
        now = new.check(check.name)
        if now is None or now.status != PASSED:
            status = "missing" if now is None else now.status
            reason = new.reason or (now.detail if now is not None else "the check was not made")
            failed = new.failed_check
            if now is None and failed:
                return Change(new.id, failed, PASSED, new.status, reason)
            return Change(new.id, check.name, PASSED, status, reason)
    return None
