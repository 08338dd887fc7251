"""Memory that is freed and wanted again a moment later.

glibc gives large blocks back to the system as soon as they are freed, so that every step of training pays for fresh, zeroed
pages for each activation: a tenth of the time of a small network. Here they are kept. No library sets this: psutil 7.2
offers ``heap_trim``, which gives memory back, and not ``mallopt``, which keeps it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from attn_deploy.processes.memory import glibc

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_DEFAULT_TRIM, _DEFAULT_MMAP_MAX = 128 * 1024, 65_536
_NEVER = 2**31 - 1


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block the process keeps what it frees; afterwards glibc's defaults hold, and the rest is given back.

    Does nothing where the C library is another one.
    """
    libc = glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM)
        libc.malloc_trim(0)
