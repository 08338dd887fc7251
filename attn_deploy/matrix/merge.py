"""The records of several machines as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attn_deploy.errors import InvalidRequestError
from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId, sorted_cells
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.record import MatrixRecord

_WORST_FIRST = (FAILED, SKIPPED, PASSED)


def merge_records(records: Sequence[MatrixRecord]) -> MatrixRecord:
    """One record with the cells of all; of a cell that several have, the worst result, so that nothing red is hidden.

    Raises:
        InvalidRequestError: if there is no record.
    """
    if not records:
        raise InvalidRequestError("there is no record to merge.")
    cells: dict[CellId, Cell] = {}
    for record in records:
        for cell in record.cells:
            known = cells.get(cell.id)
            if known is None or _WORST_FIRST.index(cell.status) < _WORST_FIRST.index(known.status):
                cells[cell.id] = cell
    first = min(records, key=lambda r: r.started)
    return replace(
        first,
        cells=tuple(sorted_cells(cells.values())),
        options=_union([r.options for r in records]),
        shard=(1, 1),
        seconds=round(sum(r.seconds for r in records), 1),
        jobs=max(r.jobs for r in records),
        reused=sum(r.reused for r in records),
        interrupted=any(r.interrupted for r in records),
    )


def _union(options: Sequence[MatrixOptions]) -> MatrixOptions:
    def joined(name: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(v for o in options for v in getattr(o, name)))

    names = ("models", "exporters", "dynamic", "precisions", "runtimes", "inputs")
    values: dict[str, object] = {name: joined(name) for name in names}
    values["opsets"] = tuple(sorted({n for o in options for n in o.opsets}))
    return replace(options[0], **values)  # type: ignore[arg-type]
