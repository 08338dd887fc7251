"""Symbolic traces without Python's garbage collector, which walks all that torch ever made, again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Hold the collector back: it takes a fifteenth of an export's processor time, and frees tensors that have no memory.

    What runs inside must not make circles of tensors with memory.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
