"""torch's table of ONNX functions, built once for each opset in a process.

The torch.export exporter parses the source of 500 functions at every call, which takes longer than translating a small
model. The table does not change between our calls: we register no functions of our own.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

_tables: dict[Any, Any] = {}


@contextlib.contextmanager
def shared_table() -> Iterator[None]:
    """Hand the exporter the table that it built before; without effect in a torch that builds it in another way."""
    try:
        owner: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        method = vars(owner)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def from_torchlib(cls: Any, *arguments: Any, **settings: Any) -> Any:
        key = (cls, arguments, tuple(sorted(settings.items())))
        if key not in _tables:
            _tables[key] = method.__func__(cls, *arguments, **settings)
        return _tables[key]

    owner.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        owner.from_torchlib = method
