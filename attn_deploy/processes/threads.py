"""Threads whose start cannot wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_PATIENCE = 20.0  # seconds within which a thread begins, however busy the machine is


class _Begun(threading.Event):
    """What `threading.Thread.start` waits for, and would for ever: a thread that no memory is left for never says so."""

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(_PATIENCE if timeout is None else timeout) and timeout is None:
            raise MemoryError("a thread did not begin")
        return True


class HelperThread(threading.Thread):
    """A daemon whose `start` raises MemoryError where it does not begin."""

    def __init__(self, target: Callable[..., Any], *arguments: Any, name: str | None = None) -> None:
        super().__init__(target=target, args=arguments, name=name, daemon=True)
        self._started = _Begun()
