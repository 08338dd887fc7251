"""Kernels that TensorRT borrows from cuBLAS and cuDNN, left out where those libraries are not there.

TensorRT 8 takes them by default and then fails in the middle of a build; its own kernels do as well.
"""

from __future__ import annotations

import ctypes
from typing import Any

# Source -> the names of its library, in the order in which TensorRT looks for it, and a function that it must have.
_LIBRARIES = {
    "CUBLAS": (("libcublas.so.11", "libcublas.so.12"), "cublasCreate_v2"),
    "CUBLAS_LT": (("libcublasLt.so.11", "libcublasLt.so.12"), "cublasLtCreate"),
    "CUDNN": (("libcudnn.so.8",), "cudnnCreate"),
}


def drop_missing_sources(config: Any, trt: Any) -> tuple[str, ...]:
    """Take the sources whose library cannot be used out of a builder's configuration.

    Returns:
        Their names.
    """
    if not hasattr(trt, "TacticSource"):
        return ()
    sources = trt.TacticSource.__members__
    mask = int(config.get_tactic_sources())
    missing = [n for n in _LIBRARIES if n in sources and mask >> int(sources[n]) & 1 and not _usable(*_LIBRARIES[n])]
    if missing:
        for name in missing:
            mask &= ~(1 << int(sources[name]))
        config.set_tactic_sources(mask)
    return tuple(missing)


def _usable(names: tuple[str, ...], function: str) -> bool:
    """Whether the first of the libraries that loads has the function: slim containers hold empty stand-ins."""
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return hasattr(library, function)
    return False
