"""Several workers on one list of groups: results as they come, whatever happens to a worker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attn_deploy.errors import WorkerCrashError, WorkerTimeoutError
from attn_deploy.matrix.cell import CRASH, TIMEOUT, Cell, CellId, failed
from attn_deploy.matrix.task import Task, Worker
from attn_deploy.processes import HelperThread

_LOOK = 1.0  # seconds between looks at whether somebody still waits for a worker
LANE = "attn-deploy matrix lane"  # name of the threads that wait for workers


@dataclass(frozen=True, slots=True)
class _Ended:
    """A lane has no more to do; ``error`` is what stopped it, if something did."""

    error: BaseException | None


def drive(
    groups: Sequence[Sequence[Task]],
    make_worker: Callable[[], Worker],
    *,
    jobs: int,
    on_cell: Callable[[Cell], None],
    on_start: Callable[[CellId], None] = lambda _: None,
) -> bool:
    """Make all cells; each group on one worker, because its cells share what the worker remembers.

    Args:
        groups: what to do, longest first.
        make_worker: called once for each lane.
        jobs: lanes.
        on_cell: is given each cell, in this thread, as soon as it is made.
        on_start: is told, in another thread, which cell is begun.

    Returns:
        Whether all was done; False after Ctrl-C.
    """
    todo: queue.SimpleQueue[Sequence[Task]] = queue.SimpleQueue()
    for group in groups:
        todo.put(group)
    results: queue.SimpleQueue[Cell | _Ended] = queue.SimpleQueue()
    stop = threading.Event()
    workers = [make_worker() for _ in range(max(1, min(jobs, len(groups))))]
    lanes = [HelperThread(_lane, worker, todo, results, stop, on_start, name=LANE) for worker in workers]
    running, error = len(lanes), None
    try:
        for lane in lanes:
            lane.start()
        while running:
            result = _next(results, lanes)
            if isinstance(result, Cell):
                on_cell(result)
                continue
            running -= 1
            if result.error is not None:
                error = result.error
                stop.set()
    except KeyboardInterrupt:
        return False
    finally:
        stop.set()
        for worker in workers:
            worker.close()
        # A cell that is made in this process cannot be ended: the exporters' state is free when it is done, not before.
        # The lane of a worker process ends with it: a worker that is closed answers at once.
        for lane in lanes:
            if lane.ident is not None:
                lane.join()
        for worker in workers:
            worker.close()  # what a lane began between the two
    if error is not None:
        raise error
    return True


def _next(results: queue.SimpleQueue[Cell | _Ended], lanes: Sequence[threading.Thread]) -> Cell | _Ended:
    """What comes next; an end where every lane has died without a word, as they do where no memory is left for one."""
    while True:
        dead = not any(lane.is_alive() for lane in lanes)
        try:
            return results.get(timeout=_LOOK)
        except queue.Empty:
            if dead:
                return _Ended(WorkerCrashError("the threads that wait for cells ended without a word: out of memory?"))


def _lane(
    worker: Worker,
    todo: queue.SimpleQueue[Sequence[Task]],
    results: queue.SimpleQueue[Cell | _Ended],
    stop: threading.Event,
    on_start: Callable[[CellId], None],
) -> None:
    try:
        while not stop.is_set():
            try:
                group = todo.get_nowait()
            except queue.Empty:
                break
            for task in group:
                if stop.is_set():
                    break
                on_start(task.cell)
                results.put(_make(worker, task, stop))
    except BaseException as error:  # it is raised again in the thread that waits
        results.put(_Ended(None if stop.is_set() else error))
    else:
        results.put(_Ended(None))


def _make(worker: Worker, task: Task, stop: threading.Event) -> Cell:
    """One cell. After a crash it is made once more with every native helper in a process of its own, as an export is."""
    started = time.perf_counter()
    crash = ""
    for careful in (False, True):
        try:
            return Cell.from_dict(worker.run(task, careful=careful))
        except WorkerTimeoutError:
            reason = f"{task.cell.model}: took longer than {task.timeout:g} s and was stopped."
            return failed(task.cell, TIMEOUT, reason, seconds=time.perf_counter() - started, key=task.key)
        except WorkerCrashError as error:
            if stop.is_set():  # it was stopped from here
                raise
            crash = str(error)
    return failed(task.cell, CRASH, crash, seconds=time.perf_counter() - started, key=task.key)
