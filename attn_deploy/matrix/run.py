"""`attn_deploy.run_matrix`: from options to a record in which every cell has its evidence or its reason."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable
from pathlib import Path

from attn_deploy._version import __version__
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.environment import command_line, describe_environment, usable_cores
from attn_deploy.matrix.cell import Cell, CellId, sorted_cells
from attn_deploy.matrix.drive import drive
from attn_deploy.matrix.keys import cell_key
from attn_deploy.matrix.options import CELL_SECONDS, MatrixOptions
from attn_deploy.matrix.plan import plan_matrix
from attn_deploy.matrix.record import RECORD_NAME, MatrixRecord
from attn_deploy.matrix.resolvable import check_models
from attn_deploy.matrix.store import MatrixFolder, stored_request
from attn_deploy.matrix.task import Task
from attn_deploy.matrix.workers import worker_factory


def run_matrix(
    options: MatrixOptions | None = None,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    jobs: int | None = None,
    shard: tuple[int, int] | None = None,
    timeout: float = CELL_SECONDS,
    executor: str = "processes",
    on_plan: Callable[[int, int], None] = lambda total, reused: None,
    on_cell: Callable[[Cell], None] = lambda cell: None,
    on_start: Callable[[CellId], None] = lambda cell: None,
) -> MatrixRecord:
    """Make every cell of a matrix and check it.

    Worker processes are spawned, so a script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        options: what to make; by default every registry entry at opsets 13 to 22 from both exporters.
        output: folder of the run; cells are kept there as they are made, and the record when all are. None keeps
            nothing.
        resume: go on with the run in ``output``: cells whose source, versions and options are unchanged are taken over.
        jobs: worker processes; by default one for each usable core.
        shard: (2, 4) makes the second of four parts; None makes all, or with ``resume`` the part that the folder holds.
        timeout: seconds for one cell, after which its process is ended.
        executor: ``processes``, ``inline`` (this process, no time limit) or ``ray``.
        on_plan: is told how many cells there are and how many of them are taken over.
        on_cell: is given each cell as it is made.
        on_start: is told which cell is begun, from another thread.

    Returns:
        The record. After Ctrl-C it has the cells that were made, and says that it was interrupted.

    Raises:
        InvalidRequestError: if the request cannot be used.
        UnknownModelError: if a model is not there.
        MissingDependencyError: if the executor's library, or a model's package, is not installed.
    """
    options = options or MatrixOptions()
    jobs = usable_cores() if jobs is None else jobs
    if jobs < 1 or not timeout > 0:
        raise InvalidRequestError(f"--jobs {jobs} and --timeout {timeout:g} must both be above zero.")
    if resume and output is None:
        raise InvalidRequestError("to resume a run, name its folder: output=...")
    check_models(options)
    shard = _shard(shard, Path(output) if resume and output is not None else None)
    plan = plan_matrix(options, shard=shard)
    make_worker = worker_factory(executor, jobs)
    with contextlib.ExitStack() as stack:
        folder = None if output is None else stack.enter_context(MatrixFolder.opened(Path(output), resume=resume))
        kept = folder.known() if folder is not None and resume else {}
        if folder is not None:
            folder.write_options(options, shard)
        started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
        cells: list[Cell] = list(plan.skipped)
        groups: list[list[Task]] = []
        for group in plan.groups:
            tasks = [Task(cell, options, cell_key(cell, options), timeout) for cell in group]
            cells += [kept[t.key] for t in tasks if t.key in kept]
            left = [t for t in tasks if t.key not in kept]
            groups += [left] if left else []
        reused = len(cells) - len(plan.skipped)
        on_plan(plan.cells, reused)

        def keep(cell: Cell) -> None:
            cells.append(cell)
            if folder is not None:
                folder.append(cell)
            on_cell(cell)

        done = drive(groups, make_worker, jobs=jobs, on_cell=keep, on_start=on_start) if groups else True
        record = MatrixRecord(
            cells=tuple(sorted_cells(cells)),
            options=options,
            shard=shard,
            environment=describe_environment(),
            argv=command_line(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 1),
            jobs=jobs,
            executor=executor,
            reused=reused,
            interrupted=not done,
            attn_deploy=__version__,
        )
        if folder is not None:
            record.write(folder.path / RECORD_NAME)
        return record


def _shard(wanted: tuple[int, int] | None, resumed: Path | None) -> tuple[int, int]:
    """The part to make; a folder stays the part that it was begun as."""
    if resumed is None:
        return wanted or (1, 1)
    _, held = stored_request(resumed)
    if wanted is not None and wanted != held:
        raise InvalidRequestError(
            f"{str(resumed)!r} holds shard {held[0]}/{held[1]} of its matrix and cannot be resumed as {wanted[0]}/{wanted[1]}; "
            "leave --shard out, or choose another --output."
        )
    return held
