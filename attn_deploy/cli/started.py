"""A sign of life before anything large is loaded: PyTorch alone takes seconds, and a terminal that shows nothing looks dead."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from attn_deploy.processes import HelperThread

SILENCE = 0.1  # seconds for which a command says nothing of itself: a mistyped one is answered before


@contextlib.contextmanager
def saying_so(command: str) -> Iterator[None]:
    """Say on standard error that a command works, unless it ends at once."""
    ended = threading.Event()
    HelperThread(_wait, command, ended).start()
    try:
        yield
    finally:
        ended.set()


def _wait(command: str, ended: threading.Event) -> None:
    if not ended.wait(SILENCE):
        _say(command)


def _say(command: str) -> None:
    # On a terminal whatever comes next stands in its place: every command's first line is longer.
    text = "starting\r" if sys.stderr.isatty() else f"{command}: starting\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()
