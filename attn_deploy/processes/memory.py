"""How much memory there is, a limit to what this process takes of it, and what it freed given back."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MMAP_THRESHOLD = -3  # parameter of glibc's mallopt
_LARGEST_MMAP_THRESHOLD = 32 << 20  # where glibc's own adjustment ends in a process that frees large blocks


def limit_memory(memory: int | None) -> None:
    """Let allocations of this process fail beyond so many bytes, and let the system end it first if it must end one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if memory is None:
        return
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_memory() -> int | None:
    """Bytes that can be had without swapping: of the machine, or of the container where that has less.

    psutil knows the former only, and takes 24 ms to import in each child (see `attn_deploy.machine.conditions`).
    """
    free = _number("/proc/meminfo", r"^MemAvailable:\s*(\d+) kB")
    most, used = (_number(f"/sys/fs/cgroup/memory.{n}", r"^(\d+)$") for n in ("max", "current"))
    bounds = [] if free is None else [free * 1024]
    bounds += [] if most is None or used is None else [max(0, most - used)]
    return min(bounds, default=None)


def memory_allowance() -> int | None:
    """Bytes that this process may hold: its limit, or what is free; None where the system says neither."""
    with contextlib.suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if soft != resource.RLIM_INFINITY:
            return soft
    return available_memory()


def give_freed_memory_back() -> None:
    """Give the system what this process has freed; milliseconds, and nothing where the C library is not glibc.

    glibc keeps what lies between blocks in use: after some runs of a network 150 MB, on which the next step piles its own.
    """
    libc = glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Within the block, memory of a megabyte and more goes back to the system as soon as it is freed; glibc alone.

    glibc soon takes blocks of up to 32 MB from its heap, where what is freed between two blocks in use stays: of the maps of
    a network a third of what they take at the most. Fresh pages cost time, so this is for few runs with large maps.
    """
    libc = glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)


def glibc() -> ctypes.CDLL | None:
    """The C library of this process where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None


def _number(path: str, pattern: str) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return int(match[1]) if match else None
    return None
