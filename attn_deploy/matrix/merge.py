"""The records of several machines as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from attn_deploy.errors import InvalidRequestError
from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId, sorted_cells
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.plan import plan_matrix
from attn_deploy.matrix.record import MatrixRecord

_WORST_FIRST = (FAILED, SKIPPED, PASSED)


_NAMED = 5  # models that are named when their cells are missing


def merge_records(records: Sequence[MatrixRecord], *, partial: bool = False) -> MatrixRecord:
    """One record with the cells of all; of a cell that several have, the worst result, so that nothing red is hidden.

    Args:
        records: shards of one request, or requests whose options together make one.
        partial: whether cells of that one request may be missing; the record then says what it ``lacks``.

    Raises:
        InvalidRequestError: if there is no record, or, unless ``partial``, if a cell is missing; the exit code is then 1.
    """
    if not records:
        raise InvalidRequestError("no record to merge.")
    cells: dict[CellId, Cell] = {}
    for record in records:
        for cell in record.cells:
            other = cells.get(cell.id)
            if other is None or _WORST_FIRST.index(cell.status) < _WORST_FIRST.index(other.status):
                cells[cell.id] = cell
    first = min(records, key=lambda r: r.started)
    options = _union([r.options for r in records])
    lacks = _lacks(records, options, cells.keys())
    if lacks and not partial:
        raise InvalidRequestError(
            f"the records are incomplete: {'; '.join(lacks)} missing. Add the records that hold it, or merge these as they are "
            "with --partial (in Python: partial=True).",
            exit_code=1,
        )
    return replace(
        first,
        cells=tuple(sorted_cells(cells.values())),
        options=options,
        shard=(1, 1),
        seconds=round(sum(r.seconds for r in records), 1),
        jobs=max(r.jobs for r in records),
        reused=sum(r.reused for r in records),
        interrupted=bool(lacks) and any(r.interrupted for r in records),
        lacks=lacks,
    )


def _lacks(records: Sequence[MatrixRecord], options: MatrixOptions, held: Collection[CellId]) -> tuple[str, ...]:
    """The cells of the options that no record has, and the shards that would have them."""
    planned = plan_matrix(options).ids
    missing = sorted(planned.difference(held))
    if not missing:
        return ()
    lacks = []
    for shards in sorted({r.shard[1] for r in records}):
        here = {r.shard[0] for r in records if r.shard[1] == shards}
        lacks += [f"shard {number}/{shards}" for number in range(1, shards + 1) if number not in here]
    models = list(dict.fromkeys(c.model for c in missing))
    names = ", ".join(models[:_NAMED])
    more = f" and {len(models) - _NAMED} more models" if len(models) > _NAMED else ""
    return (*lacks, f"{len(missing)} of {len(planned)} cells, of {names}{more}, such as {missing[0]}")


def _union(options: Sequence[MatrixOptions]) -> MatrixOptions:
    def joined(name: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(v for o in options for v in getattr(o, name)))

    names = ("models", "exporters", "dynamic", "precisions", "runtimes", "inputs")
    values: dict[str, object] = {name: joined(name) for name in names}
    values["opsets"] = tuple(sorted({n for o in options for n in o.opsets}))
    return replace(options[0], **values)  # type: ignore[arg-type]
