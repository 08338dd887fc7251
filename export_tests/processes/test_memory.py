"""Where the C library takes large blocks from, and that they go back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attn_deploy.processes.memory import glibc

# In a process of its own: glibc's adjustments hold for a whole process.
SCRIPT = """
import ctypes
from attn_deploy.processes import large_blocks_apart

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Numbers = type("Numbers", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in FIELDS]})
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Numbers
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]


def apart(megabytes):
    before = libc.mallinfo2().hblkhd
    block = libc.malloc(megabytes << 20)
    taken = libc.mallinfo2().hblkhd - before
    libc.free(block)
    assert libc.mallinfo2().hblkhd == before
    return taken >= megabytes << 20


apart(31)  # from here on smaller blocks are of the heap
answers = [apart(10)]
with large_blocks_apart():
    answers += [apart(20), apart(20)]  # larger than what is free there
answers.append(apart(25))
print(*answers)
"""


@pytest.mark.skipif(glibc() is None or not hasattr(glibc(), "mallinfo2"), reason="the C library is not glibc 2.33")
def test_large_blocks_are_apart_from_the_heap_within_the_block_alone():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True", "True", "False"], done.stderr
