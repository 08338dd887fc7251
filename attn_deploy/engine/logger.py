"""TensorRT's messages, collected and sent on.

The first logger that TensorRT is given is used for some messages of the whole process, so there is one for each library.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

LOG = logging.getLogger("attn_deploy.engine")
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Calls into the library during which no object of its own is collected as garbage.

    It holds a lock while it calls a logger, and takes the same lock when a builder or an engine goes. One that was left in
    a circle of references, and is collected while a message is handled, would wait for its own thread for ever.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_routine(message: str) -> bool:
    return "Make sure" in message and "Int64 binding" in message  # said of every int64 tensor


@functools.cache
def logger_for(trt: Any) -> Any:
    """The process's ``ILogger`` for a TensorRT module.

    It has ``forward``, a function of level and text that may be replaced, ``errors`` and ``warnings``, lists of the
    texts so far, and ``clear()``.
    """

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.forward: Callable[[int, str], None] = LOG.log
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name, logging.INFO)
            if level >= logging.ERROR:
                self.errors.append(message)
            elif level == logging.WARNING and message not in self.warnings and not _is_routine(message):
                self.warnings.append(message)
            self.forward(level, message)

        def clear(self) -> None:
            self.errors.clear()
            self.warnings.clear()

    return CollectingLogger()
