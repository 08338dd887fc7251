"""How processes end: with their parent, and in words."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from attn_deploy.processes.threads import HelperThread


def death_of(code: int) -> str:
    """How a process ended, by its exit code: "crashed (SIGSEGV)." and the like."""
    if code >= 0:
        return f"ended without a result (exit code {code})."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " The system probably killed it: out of memory." if name == "SIGKILL" else ""
    return f"crashed ({name}).{hint}"


# In the environment of a command that another one starts: the starter's process id, and the number of the pipe.
LIFELINE = "ATTN_DEPLOY_LIFELINE"


def die_with(parent: int, lifeline: int) -> None:
    """Have this process killed as soon as its parent is gone: nobody else would end it.

    Args:
        parent: its process id.
        lifeline: read end of a pipe whose write end only the parent holds.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl  # the kernel's signal comes even where native code holds the interpreter's lock for minutes

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    HelperThread(_watch, parent).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
