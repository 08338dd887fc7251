"""Where cells are made: in this process, in processes that can be ended, or (see `ray_workers`) on a cluster."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.matrix.cell import CellId
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.task import Task, TaskCrashError, TaskTimeoutError, Worker

EXECUTORS = ("processes", "inline", "ray")
_ENDED = "the process was ended from here."


def worker_factory(executor: str, jobs: int) -> Callable[[], Worker]:
    """What makes the workers of an executor.

    Raises:
        InvalidRequestError: if there is no such executor.
        MissingDependencyError: if its library is not installed.
    """
    if executor == "inline":
        return InlineWorker
    if executor == "processes":
        _import_pebble()
        threads = threads_of_a_worker(jobs)
        return lambda: ProcessWorker(threads)
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
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: Any = None
        self._pending: Any = None
        self._closed = False
        self._lock = threading.Lock()
        handle, name = tempfile.mkstemp(prefix="attn-deploy-worker-", suffix=".log")
        os.close(handle)
        self._log = Path(name)

    def run(self, task: Task, *, careful: bool) -> dict[str, Any]:
        """The cell as data.

        Raises:
            TaskTimeoutError, TaskCrashError: as they say.
        """
        pebble = _import_pebble()
        settings = {"timeout": task.timeout, "careful": careful}
        arguments = (task.cell, task.options, task.key)
        with self._lock:
            if self._closed:
                raise TaskCrashError(_ENDED)
            if self._pool is None:
                self._pool = self._start(pebble)
            with _children_without_ctrl_c():  # the first call starts the process, and the threads that start the next
                self._pending = self._pool.schedule(_make_cell, args=arguments, kwargs=settings, timeout=task.timeout)
        try:
            made: dict[str, Any] = self._pending.result()
        except TimeoutError:
            raise TaskTimeoutError from None
        except CancelledError:
            raise TaskCrashError(_ENDED) from None
        except pebble.ProcessExpired as error:
            raise TaskCrashError(_death(error.exitcode) + self._last_words()) from None
        return made

    def close(self) -> None:
        """End the process; a call of `run` that waits for it, and every later one, raises TaskCrashError."""
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.stop()
                self._pool.join()
                self._pool = None
            if self._pending is not None:
                self._pending.cancel()  # a pool that is stopped leaves it unanswered for ever
        self._log.unlink(missing_ok=True)

    def _start(self, pebble: Any) -> Any:
        import multiprocessing

        # Spawned, not forked: the threads of a caller that uses torch do not survive a fork.
        context = multiprocessing.get_context("spawn")
        return pebble.ProcessPool(
            max_workers=1, initializer=_begin, initargs=(str(self._log), self._threads), context=context
        )

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        self._log.write_text("", encoding="utf-8")
        said = fatal[-1:] or lines[-1:]
        return f" Its last words: {said[0][:200]}" if said else ""


def _import_pebble() -> Any:
    try:
        import pebble
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "pebble is not installed; it runs the cells of a matrix in processes that can be ended: "
            "pip install 'attn-deploy[matrix]', or use --executor inline."
        ) from error
    return pebble


@contextlib.contextmanager
def _children_without_ctrl_c() -> Iterator[None]:
    """Processes and threads that are started meanwhile are not told of Ctrl-C; this thread is told afterwards.

    A terminal sends SIGINT to the whole process group, also to a process that still imports and has no say in it. Who
    started it ends it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its own start would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(log: str, threads: int) -> None:
    """Set a new worker process up: quiet, with few threads, and taking its own children along when it is ended."""
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(sys.stderr)
    signal.signal(signal.SIGTERM, _end)
    # Read when torch is imported, here below for the first time.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    import attn_deploy.matrix.making  # noqa: F401  # so that the time of the first cell is its own

    torch.set_num_threads(threads)


def _end(*_: Any) -> None:
    from attn_deploy.isolate import end_children

    with contextlib.suppress(Exception):
        end_children()
    os._exit(128 + signal.SIGTERM)


def _make_cell(cell: CellId, options: MatrixOptions, key: str, *, timeout: float, careful: bool) -> dict[str, Any]:
    from attn_deploy.matrix.making import make_cell_data

    return make_cell_data(cell, options, key, timeout=timeout, careful=careful)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the process crashed ({name})."
    return f"the process ended by itself (exit code {code})."
