"""Silence for torch's exporters: what matters of their talk is in the exceptions that they raise."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch

_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.onnx._internal.exporter._compat",
    "torch.onnx._internal.exporter._core",
    "torch.fx.experimental.symbolic_shapes",
    "torch._subclasses.fake_tensor",
    "torch._export",
    "torch.export",
    "onnxscript",
)


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Hold back log lines, prints and warnings; a caller that wants the warnings records them inside."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()
    # The TorchScript exporter switches this dump of its graph on for every call; C++ prints it, past Python's streams.
    dump = getattr(torch._C, "_jit_onnx_log", None)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            if dump is not None:
                torch._C._jit_onnx_log = lambda *_: None
            yield
    finally:
        if dump is not None:
            torch._C._jit_onnx_log = dump
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
