"""How much memory a process may use that reads files of others."""

from __future__ import annotations

from pathlib import Path

from attn_deploy.processes import available_memory

_SHARE = 0.9  # of the memory that is free, and never less than what an import of torch needs
_LEAST = 3 << 30


def default_memory_limit() -> int | None:
    """Bytes: most of what is free; None where that is not known, or drivers of GPUs reserve far more than they use."""
    free = available_memory()
    if free is None or any(Path("/dev", name).exists() for name in ("nvidiactl", "nvhost-ctrl-gpu")):
        return None
    return max(_LEAST, int(_SHARE * free))
