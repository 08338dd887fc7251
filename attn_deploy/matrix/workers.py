"""Where cells are made: in this process, in processes that can be ended, or (see `ray_workers`) on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.isolate import IsolatedWorker
from attn_deploy.matrix.cell import CellId
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.task import Task, Worker

EXECUTORS = ("processes", "inline", "ray")
_START_SECONDS = 600.0  # importing torch on a machine that does other things


def worker_factory(executor: str, jobs: int, *, memory: int | None = None) -> Callable[[], Worker]:
    """What makes the workers of an executor.

    Raises:
        InvalidRequestError: if there is no such executor.
        MissingDependencyError: if its library is not installed.
    """
    if executor == "inline":
        return InlineWorker
    if executor == "processes":
        threads = threads_of_a_worker(jobs)
        return lambda: ProcessWorker(threads, memory=memory)
    if executor == "ray":
        from attn_deploy.matrix.ray_workers import ray_worker_factory

        return ray_worker_factory(jobs)
    raise InvalidRequestError(f"the executor {executor!r} is unknown; use {', '.join(EXECUTORS)}.")


def threads_of_a_worker(jobs: int) -> int:
    """The threads that a worker may use, so that all together have a core each."""
    from attn_deploy.machine.environment import usable_cores

    return max(1, usable_cores() // jobs)


class InlineWorker:
    """Makes cells in this process: for a debugger, and where nothing may be started. No time limit, no protection."""

    def run(self, task: Task, *, careful: bool) -> dict[str, Any]:
        """The cell as data."""
        from attn_deploy.matrix.making import make_cell_data

        return make_cell_data(task.cell, task.options, task.key, timeout=task.timeout, careful=careful)

    def close(self) -> None:
        """Drop the model that is kept between cells."""
        from attn_deploy.matrix.making import forget

        forget()


class ProcessWorker:
    """Makes cells in a process that lives until a cell kills it, and is then started anew.

    Args:
        threads: of torch and ONNX Runtime in the process.
        memory: bytes of data that it may hold; None for as many as this process.
    """

    def __init__(self, threads: int, *, memory: int | None = None) -> None:
        self._threads = threads
        self._worker = IsolatedWorker(threads=threads, memory=memory)

    def run(self, task: Task, *, careful: bool) -> dict[str, Any]:
        """The cell as data.

        Raises:
            WorkerTimeoutError, WorkerCrashError: as they say.
        """
        what = f"{task.cell.model}: the process"
        if not self._worker.running:
            threads = {"threads": self._threads}
            self._worker.call(f"{__name__}:start", threads, what=what, timeout=_START_SECONDS)
        arguments = {
            "cell": asdict(task.cell),
            "options": task.options.to_dict(),
            "key": task.key,
            "timeout": task.timeout,
            "careful": careful,
        }
        data: dict[str, Any] = self._worker.call(f"{__name__}:make", arguments, what=what, timeout=task.timeout)
        return data

    def close(self) -> None:
        """End the process; a call of `run` that waits for it, and every later one, raises WorkerCrashError."""
        self._worker.close()


def start(emit: Callable[[Any], None], threads: int) -> None:
    """Set a new worker process up, so that the time of the first cell is its own."""
    import torch

    import attn_deploy.matrix.making  # noqa: F401

    torch.set_num_threads(threads)


def make(
    emit: Callable[[Any], None],
    cell: Mapping[str, Any],
    options: Mapping[str, Any],
    key: str,
    timeout: float,
    careful: bool,
) -> dict[str, Any]:
    """One cell, in a worker process."""
    from attn_deploy.matrix.making import make_cell_data

    return make_cell_data(CellId(**cell), MatrixOptions.from_dict(options), key, timeout=timeout, careful=careful)
