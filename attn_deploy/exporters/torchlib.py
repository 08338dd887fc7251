"""What torch's exporter makes anew at every call and need not: its table of functions, and the decomposed program.

The torch.export exporter reads the source of 500 ONNX functions at every call, and then traces the program a second
time to decompose what has no such function. The table depends on the opset alone, since we register no functions of our
own; the decomposed program depends on the program and on which operators the table has.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterator
from typing import Any

_PACKAGE = "torch.onnx._internal.exporter"
_tables: dict[Any, Any] = {}
_functions: list[Any] = []


@contextlib.contextmanager
def shared_work(decomposed: dict[Any, Any]) -> Iterator[None]:
    """Hand the exporter what it made before; without effect in a torch that does these steps in another way.

    Args:
        decomposed: where the decomposed forms of one program are kept.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_shared_table())
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_shared_decomposition(decomposed))
        yield


@contextlib.contextmanager
def _shared_table() -> Iterator[None]:
    registration: Any = importlib.import_module(f"{_PACKAGE}._registration")
    owner = registration.ONNXRegistry
    method = vars(owner)["from_torchlib"]

    def from_torchlib(cls: Any, *arguments: Any, **settings: Any) -> Any:
        key = (cls, arguments, tuple(sorted(settings.items())))
        if key not in _tables:
            with _parsed_functions(registration.onnxscript_apis):
                _tables[key] = method.__func__(cls, *arguments, **settings)
        return _tables[key]

    owner.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        owner.from_torchlib = method


@contextlib.contextmanager
def _parsed_functions(library: Any) -> Iterator[None]:
    """The functions, parsed once for the tables of all opsets; ``library`` is a stand-in that loads a module lazily."""
    if not _functions:
        with _unread_sources():
            _functions.extend(library.get_torchlib_ops())
    library.get_torchlib_ops = lambda: list(_functions)
    try:
        yield
    finally:
        del library.get_torchlib_ops


@contextlib.contextmanager
def _unread_sources() -> Iterator[None]:
    """Within it, a function's source is not parsed for its domain, which is that of its opset: half a second for all."""
    try:
        owner: Any = importlib.import_module("onnxscript._internal.values").TracedOnnxFunction
        method = vars(owner)["function_ir"]
    except (ImportError, AttributeError, KeyError):  # another onnxscript, which does it in another way
        yield
        return
    owner.function_ir = property(lambda self: types.SimpleNamespace(domain=self.opset.domain))
    try:
        yield
    finally:
        owner.function_ir = method


@contextlib.contextmanager
def _shared_decomposition(decomposed: dict[Any, Any]) -> Iterator[None]:
    core: Any = importlib.import_module(f"{_PACKAGE}._core")
    step = core._prepare_exported_program_for_export

    def prepare(program: Any, *, registry: Any) -> Any:
        key = (id(program), frozenset(map(str, registry.functions)))
        if key not in decomposed:
            decomposed[key] = step(program, registry=registry)
        return decomposed[key]

    core._prepare_exported_program_for_export = prepare
    try:
        yield
    finally:
        core._prepare_exported_program_for_export = step
