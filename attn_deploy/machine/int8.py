"""Whether this processor multiplies bytes without losing any."""

from __future__ import annotations

import platform
from pathlib import Path

from attn_deploy.machine.environment import isa_flags

_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUINFO = Path("/proc/cpuinfo")


def saturates_in_int8(cpuinfo: str | None = None, architecture: str | None = None) -> bool:
    """Whether sums of two products of bytes are cut at 16 bits: on x86 without an 8-bit dot product.

    Args:
        cpuinfo: text of ``/proc/cpuinfo``; None to read it. Where there is none, as on Windows, the answer is yes for x86.
        architecture: as `platform.machine` says it; None to ask that.
    """
    if (architecture or platform.machine()).lower() not in ("x86_64", "amd64", "i686"):
        return False
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    return not _DOT_PRODUCTS & set(isa_flags(cpuinfo))
