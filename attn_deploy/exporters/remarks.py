"""What the TorchScript tracer remarks on lines of the user's: the constants that it made of tensors."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attn_deploy.exporters import attention_forms, order_forms, safe_forms
from attn_deploy.exporters.prepared import Remark
from attn_deploy.ops import fold

_TORCH = Path(torch.__file__).resolve().parent
_PASSING = Path(str(safe_forms.__file__)).resolve()  # calls of the user's go through it
# Here channel counts are made numbers on purpose.
_OWN = {Path(str(m.__file__)).resolve() for m in (attention_forms, order_forms, safe_forms, fold)}
_THROUGH_TORCH = frozenset({"overrides.py", "_tensor.py"})


@contextlib.contextmanager
def remarks() -> Iterator[list[Remark]]:
    """The remarks of a trace that is made inside, on lines of the user's; each once, in order.

    Many such constants are right: a channel count, a rank, a number from a buffer. The proof at other sizes judges.
    """
    kept: dict[Remark, None] = {}
    result: list[Remark] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, filename, line, *_: kept.update(
            dict.fromkeys(_remark(str(message), category, filename, line))
        )
        yield result
    result.extend(kept)


def _remark(message: str, category: Any, filename: str, line: int) -> Iterator[Remark]:
    tracer_warning = torch.jit.TracerWarning  # type: ignore[attr-defined]
    text = message.split(". ")[0].split(" might cause")[0]
    if not issubclass(category, tracer_warning) or "registered as constants" in text:
        return
    file = Path(filename).resolve()
    if file == _PASSING:
        file, line = _caller()
    if _TORCH not in file.parents and file not in _OWN:
        yield Remark(text, str(file), line)


def _caller() -> tuple[Path, int]:
    """Who made the call that goes through `SafeForms` at present, below what torch puts between."""
    frame: Any = sys._getframe(1)
    while frame is not None and Path(frame.f_code.co_filename).resolve() != _PASSING:
        frame = frame.f_back
    while frame is not None:
        file = Path(frame.f_code.co_filename).resolve()
        if file != _PASSING and not (_TORCH in file.parents and file.name in _THROUGH_TORCH):
            return file, frame.f_lineno
        frame = frame.f_back
    return _PASSING, 0
