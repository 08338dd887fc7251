"""An end to Python code that may have none."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator

from attn_deploy.processes import HelperThread


class OutOfTimeError(Exception):
    """What ran took longer than its limit."""


class _Stop(BaseException):
    """Ends the code under a limit; no ``except Exception`` inside it takes it for an error of its own."""


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End what runs inside after some processor time of this process, so that a busy machine decides nothing.

    It must be Python: a call into native code is ended when it returns.

    Raises:
        OutOfTimeError: naming the limit.
    """
    thread = threading.get_ident()
    finished = threading.Event()
    lock = threading.Lock()
    end = time.process_time() + seconds

    def watch() -> None:
        while (left := end - time.process_time()) > 0:
            if finished.wait(max(0.05, left / 4)):  # several threads may use processor time
                return
        with lock:
            if not finished.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stop))

    watcher = HelperThread(watch)
    watcher.start()
    try:
        try:
            yield
        finally:
            with lock:
                finished.set()
    except _Stop:
        raise OutOfTimeError(f"{what} took more than {seconds:.0f} s of processor time and was ended") from None
